"""The folder of a run: which stages are finished, and what they recorded.

Each stage leaves `<workdir>/<stage>/config.json` (the config keys that its result depends on)
and, when finished, `complete.json`. The same command again finds them. A config that would have
made something else is refused, by the names of the keys that differ; nothing is overwritten.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import atomic_files, errors, version
from madad_jax.core import json_digest as json_digest_lib
from madad_jax.runtime import agreement

_MARKER, _COMPLETE = "config.json", "complete.json"


class Workdir:
    """Markers and facts of the stages in a folder.

    Args:
      folder: of this run's results.
      trained: where the weights lie: another run's folder, when its variants are evaluated here.
      records: {stage: {dotted key: value}} of what each stage's result depends on.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        trained: epath.PathLike = "",
        records: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.folder = epath.Path(folder)
        self.trained = epath.Path(trained or folder)
        self.primary = jax.process_index() == 0
        self._records = dict(records or {})

    def checkpoints(self, stage: str) -> epath.Path:
        """The folder of a stage's checkpoints."""
        return self.trained / stage / "checkpoints"

    def create(self) -> None:
        """Makes the folder. Raises UserError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{jax.process_index()}"
            # Existing is not enough: a mounted folder may be read-only.
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise errors.UserError(
                f"--workdir={self.folder}: {error.strerror or error}; give a folder that can be "
                "written"
            ) from error

    def is_complete(self, stage: str) -> bool:
        """Whether the stage was finished with this config. Every process must call it.

        Raises UserError when the folder holds the stage of another config.
        """
        return agreement.from_first(lambda: self._is_complete(stage))

    def _is_complete(self, stage: str) -> bool:
        marker, now = self.trained / stage / _MARKER, self._records[stage]
        if marker.exists():
            then = config_record.rename_flat(json.loads(marker.read_text()))
            # Keys that only the older record has were dropped since, and change nothing.
            differ = [k for k in now if k not in then or then[k] != now[k]]
            if differ:
                shown = ", ".join(f"{k}: {then.get(k)!r} -> {now[k]!r}" for k in differ[:5])
                raise errors.UserError(
                    f"{self.trained / stage} was made with another config ({shown}); "
                    "choose another --workdir, or remove that folder"
                )
        else:
            # Written before the stage begins, so that a stopped one is not resumed with another
            # config either.
            atomic_files.write_text(marker, json.dumps(now, indent=1, sort_keys=True))
        return (self.trained / stage / _COMPLETE).exists()

    def mark(self, stage: str, **facts: Any) -> None:
        """Records that a stage is finished."""
        if self.primary:
            facts |= {
                "config_sha256": json_digest_lib.json_digest(self._records[stage]),
                "version": version.VERSION,
            }
            path = self.trained / stage / _COMPLETE
            atomic_files.write_text(path, json.dumps(facts, indent=1))

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded. Every process must call it.

        Raises UserError when it is not finished.
        """
        return agreement.from_first(lambda: self.facts_here(stage))

    def facts_here(self, stage: str) -> dict[str, Any]:
        """`facts` as this process alone sees them: what process 0 has just written others may
        not see yet."""
        path = self.trained / stage / _COMPLETE
        if not path.exists():
            raise errors.UserError(
                f"{self.trained} has no finished stage '{stage}'; run --mode=run on it first"
            )
        return json.loads(path.read_text())


def of_parts(parts: parts_lib.Parts, folder: epath.PathLike) -> Workdir:
    """The folder of a run of these parts."""
    records = {stage: parts.stage_record(stage) for stage in parts.stage_keys}
    return Workdir(folder, parts.evaluation.run, records)
