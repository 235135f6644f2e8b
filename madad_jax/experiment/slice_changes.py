"""Which slices a stage was begun with, and how many of today's are others.

`<workdir>/<stage>/slices.json` holds a mark of every slice. Folders may move and slices may be
added between two starts of a run, so that nothing is refused; but a training on two cohorts, or a
detector beside the mean image of other people, must not look like any other.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from madad_jax.core import atomic_files, json_file, messages
from madad_jax.data import slice_marks
from madad_jax.experiment import workdir as workdir_lib

_LOG = logging.getLogger(__name__)

FILE = "slices.json"


def compare(workdir: workdir_lib.Workdir, stage: str, sources: Mapping[str, Any]) -> list[str]:
    """Warns of each split that has other slices than the stage was begun with; returns the words.

    What has no weights yet is noted anew, and so is a stage of an older version, which kept none.

    Raises:
      UserError: the stage's file is damaged, or slices cannot be read.
    """
    if not workdir.primary:
        return []
    path = workdir.trained / stage / FILE
    marks = {split: slice_marks.list_marks(source) for split, source in sources.items()}
    if not path.exists() or not workdir.is_begun(stage):
        if workdir.trained == workdir.folder:  # another's folder is only read
            atomic_files.write_text(path, json.dumps(marks))
        return []
    before = json_file.read_object(path)
    found = []
    for split, now in marks.items():
        if split in before:
            then = json_file.as_object(before[split], str(path))
            found += [f"{split}: {words}" for words in _differences(then, now)]
    if found and workdir.tell_once(f"{stage}: {found}"):
        finished = (workdir.trained / stage / "complete.json").exists()
        _LOG.warning(
            "%s: the slices are not those that it was begun with (%s); %s",
            stage,
            "; ".join(found),
            "its weights are of those, and the mean image and the thresholds of today's"
            if finished
            else "from here on it trains on today's",
        )
    return found


def _differences(then: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """["2 added, 1 removed, 3 changed of 18, as ..."], or nothing."""
    kinds = {
        "added": [name for name in now if name not in then],
        "removed": [name for name in then if name not in now],
        "changed": [n for n in now if n in then and slice_marks.differ(str(then[n]), now[n])],
    }
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
    if not counts:
        return []
    first = next(name for names in kinds.values() for name in names)
    return [f"{counts} of {len(then)}, as {messages.shorten(first)}"]
