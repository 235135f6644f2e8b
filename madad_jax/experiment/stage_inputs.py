"""Which weights a stage read: bound to what they are, and not to where they lie.

`<workdir>/<stage>/inputs.json` holds, for each key of the config that names weights, their digest
and where they lay; and the digest of what the run measured for the stage, as its atlas. A folder
that moved is no change; other weights at the same place are one, and are named. A run of an older
version has no such file and is given one.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import agreement

_LOG = logging.getLogger(__name__)

FILE = "inputs.json"
MEASURED = "measured"  # what no key of the config names: the run's own measurements
AUTOENCODER, LPIPS, INITIAL = "autoencoder.checkpoint", "autoencoder.lpips", "denoiser.init"
FEATURES = "features.weights"
FILES = (LPIPS, FEATURES)  # the others are folders of runs
_WHAT = {
    AUTOENCODER: "autoencoder weights",
    LPIPS: "LPIPS weights",
    INITIAL: "initial weights",
    FEATURES: "weights of the network",
}
# Read by training alone: what is finished can be scored without them.
_TRAINING_ALONE = (LPIPS, INITIAL, FEATURES)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that a stage reads.

    Attributes:
      key: of the config.
      path: what the config has there; "": the run's own.
      place: folder or file where they are.
      digest: of their content; None: they cannot be read now.
    """

    key: str
    path: str
    place: str
    digest: str | None


DigestAt = Callable[[str, str], str | None]


def bind(
    workdir: workdir_lib.Workdir, stage: str, found: Sequence[Weights], digest_at: DigestAt
) -> None:
    """Compares the weights of today with those that the stage was begun with, and notes them.

    Every process must call it.

    Args:
      workdir: of the run; the stage's config was compared before.
      stage: that reads the weights.
      found: the weights of today.
      digest_at: (key, path) -> digest of what lies there, for stages of older versions, which
        noted the path alone; None: nothing that can be read.

    Raises:
      UserError: the stage was begun with other weights, or its file is damaged.
    """
    agreement.from_first(lambda: _bind(workdir, stage, found, digest_at))


def noted(workdir: workdir_lib.Workdir, stage: str) -> dict[str, dict[str, Any]]:
    """{key: {"digest", "path", "place", "beside"}} of a stage; {} where nothing is noted.

    Raises UserError for a damaged file.
    """
    return _noted(workdir, stage, "weights")


def _noted(workdir: workdir_lib.Workdir, stage: str, part: str) -> dict[str, dict[str, Any]]:
    path = workdir.trained / stage / FILE
    if not path.exists():
        return {}
    content = json_file.read_object(path)
    # Files of versions that noted weights alone have no other part.
    entries = json_file.as_object(content.get(part, {} if part != "weights" else None), str(path))
    for key, entry in entries.items():
        if not isinstance(json_file.as_object(entry, str(path)).get("digest"), str | None):
            raise errors.UserError(f"'{path}': {messages.shorten(key)}: digest: accepted: a text")
    return entries


def places(workdir: workdir_lib.Workdir, stage: str, key: str, path: str) -> list[str]:
    """Where weights may lie that are no longer at `path`: beside the run as they were when it was
    trained, where they were then, and at a relative path from above the run."""
    entry, here = noted(workdir, stage).get(key, {}), os.path.abspath(workdir.trained)
    found = [entry[name] for name in ("beside", "place") if isinstance(entry.get(name), str)]
    found = [os.path.normpath(os.path.join(here, p)) for p in found]
    if path and "://" not in path and not os.path.isabs(path) and workdir.is_begun(stage):
        found += [os.path.join(above, path) for above in epath.Path(here).parents]
    return found


def named_before(workdir: workdir_lib.Workdir, stage: str, key: str) -> str:
    """Where a stage that has weights of its own found those that the config named under `key`;
    "" where it named none."""
    if not workdir.is_begun(stage):
        return ""
    entry = noted(workdir, stage).get(key, {})
    places = entry.get("place"), entry.get("path"), workdir.record_of(stage).get(key)
    return next((place for place in places if isinstance(place, str) and place), "")


def renew(workdir: workdir_lib.Workdir, stage: str, key: str, digest: str) -> None:
    """Notes what was read for a stage that has no weights yet: another checkpoint, where the best
    one is damaged."""
    entries = noted(workdir, stage)
    if not workdir.primary or workdir.is_begun(stage) or key not in entries:
        return
    if entries[key]["digest"] != digest:
        _write(workdir, stage, entries | {key: entries[key] | {"digest": digest}})


def warn_of_other_latents(run: str, digest: str) -> None:
    """Says where initial weights of another run were trained on another autoencoder than that of
    `digest` ("": none is used). Runs of older versions do not tell."""
    known = noted(workdir_lib.Workdir(run), "denoiser").get(AUTOENCODER, {}).get("digest")
    if digest and known and known != digest:
        _LOG.warning(
            "%s: the weights of %s were trained on the latents of another autoencoder, and begin "
            "on those of this run; %s of that run gives them the latents that they know",
            INITIAL,
            run,
            AUTOENCODER,
        )


def check_read(workdir: workdir_lib.Workdir, stage: str, key: str, digest: str, place: str) -> None:
    """Raises UserError where weights that were read are not those of the stage."""
    before = noted(workdir, stage).get(key, {}).get("digest")
    if before is not None and before != digest and workdir.is_begun(stage):
        raise errors.UserError(_explain(workdir, stage, key, before, digest, place))


def note_measured(workdir: workdir_lib.Workdir, stage: str, name: str, digest: str) -> None:
    """Notes what the run measured for a stage. By process 0 alone.

    A stage that has weights keeps what it knows; one of an older version, which knew nothing, is
    given the digest of today.
    """
    entries = _noted(workdir, stage, MEASURED)
    if workdir.is_begun(stage) and (name in entries or workdir.trained != workdir.folder):
        return
    if entries.get(name, {}).get("digest") != digest:
        weights = noted(workdir, stage)
        _write(workdir, stage, weights, entries | {name: {"digest": digest}})


def check_measured(
    workdir: workdir_lib.Workdir, stage: str, name: str, digest: str, place: str
) -> None:
    """Raises UserError where what lies at `place` is not what the stage was trained with."""
    before = _noted(workdir, stage, MEASURED).get(name, {}).get("digest")
    if before is not None and before != digest:
        raise errors.UserError(
            f"'{place}': not the {name} that {stage} was trained with; found digest "
            f"{messages.shorten(digest[:12])}, accepted: {messages.shorten(before[:12])}. Put back "
            "the file of that run, or train anew in another --workdir"
        )


def _bind(
    workdir: workdir_lib.Workdir, stage: str, found: Sequence[Weights], digest_at: DigestAt
) -> None:
    now = {w.key: w for w in found}
    known, begun = noted(workdir, stage), workdir.is_begun(stage)
    before = known
    if begun:
        if not (workdir.trained / stage / FILE).exists():
            before = _of_older(workdir, stage, now, digest_at)
        _compare(workdir, stage, before, now)
    entries = {key: _entry(workdir, w, before.get(key, {})) for key, w in now.items()}
    # Another's folder (`eval.run`) is only read.
    if entries != known and not (begun and workdir.trained != workdir.folder):
        _write(workdir, stage, entries)


def _write(
    workdir: workdir_lib.Workdir,
    stage: str,
    entries: Mapping[str, Any],
    measured: Mapping[str, Any] | None = None,
) -> None:
    measured = _noted(workdir, stage, MEASURED) if measured is None else measured
    content = {"weights": entries} | ({MEASURED: measured} if measured else {})
    text = json.dumps(content, indent=1, sort_keys=True)
    atomic_files.write_text(workdir.trained / stage / FILE, text)


def _entry(
    workdir: workdir_lib.Workdir, weights: Weights, before: Mapping[str, Any]
) -> dict[str, Any]:
    if weights.digest is None:  # where they were is still the best that is known
        return dict(before)
    entry = {"digest": weights.digest, "path": weights.path}
    if weights.path:  # the run's own lie where it lies
        entry["place"] = weights.place
        if "://" not in weights.place:
            entry["place"] = os.path.abspath(weights.place)
            entry["beside"] = os.path.relpath(weights.place, workdir.trained)
    return entry


def _of_older(
    workdir: workdir_lib.Workdir, stage: str, now: Mapping[str, Weights], digest_at: DigestAt
) -> dict[str, dict[str, Any]]:
    """What a stage of an older version stands on, by the paths in its record."""
    record, out = workdir.record_of(stage), {}
    for key in now.keys() | {k for k in _WHAT if record.get(k)}:
        path = record.get(key, "")
        if not isinstance(path, str):
            raise errors.UserError(f"{workdir.trained / stage}: {key}: accepted: a path")
        if key not in now and (key == AUTOENCODER or (stage == "denoiser" and key == LPIPS)):
            continue  # in the record of an autoencoder's keys, and not read by this stage
        if not path and key != AUTOENCODER:
            continue  # it had none
        out[key] = {"digest": digest_at(key, path), "path": path}
        if out[key]["digest"] is None and key in now:
            _LOG.warning(
                "%s: made by a version that kept no digest of the %s, and %s is not there to "
                "compare; taken as they are",
                stage,
                _WHAT[key],
                messages.shorten(path),
            )
    return out


def _compare(
    workdir: workdir_lib.Workdir,
    stage: str,
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Weights],
) -> None:
    finished = (workdir.trained / stage / "complete.json").exists()
    for key in sorted({*before, *now}):
        weights = now.get(key)
        then = before[key]["digest"] if key in before else ""
        today = weights.digest if weights else ""
        if then is None or today is None or then == today:
            continue
        place = weights.place if weights else ""
        message = _explain(workdir, stage, key, then, today, place)
        same_path = weights is not None and weights.path == before.get(key, {}).get("path")
        if finished and key in _TRAINING_ALONE and same_path:
            _LOG.warning("%s; the stage is finished and needs them no more", message)
            continue
        raise errors.UserError(message)


def _explain(
    workdir: workdir_lib.Workdir, stage: str, key: str, then: str, now: str, place: str
) -> str:
    def shown(digest: str) -> str:
        return f"digest {messages.shorten(digest[:12])}" if digest else "none"

    where = f" ({place})" if place else ""
    known = "" if place else named_before(workdir, stage, key)
    known = f", as {key}={messages.shorten(known, 200)}" if known else ""
    return (
        f"{stage} was trained on other {_WHAT[key]}: {workdir.trained / stage} knows "
        f"{shown(then)}, {key}{where} holds {shown(now)}; give {key} the weights of before{known}, "
        "or train anew in another --workdir"
    )
