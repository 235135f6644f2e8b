"""The folder of a run: which stages are finished, and what they recorded.

Each stage leaves `<workdir>/<stage>/config.json` (the config keys that its result depends on)
and, when finished, `complete.json`. The same command again finds them. A config that would have
made something else is refused, by the names of the keys that differ; nothing is overwritten.
Which weights and slices a stage read is the matter of `stage_inputs.py`.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import atomic_files, errors, json_file, messages, version
from madad_jax.core import json_digest as json_digest_lib
from madad_jax.runtime import agreement

_LOG = logging.getLogger(__name__)

_MARKER, _COMPLETE = "config.json", "complete.json"
_SCHEDULE = ("train.", "optim.")  # what may change while weights are carried on


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
        self._told: set[str] = set()

    def checkpoints(self, stage: str) -> epath.Path:
        """The folder of a stage's checkpoints."""
        return self.trained / stage / "checkpoints"

    def is_begun(self, stage: str) -> bool:
        """Whether the stage has weights of its own."""
        folder = self.checkpoints(stage)
        return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())

    def tell_once(self, line: str) -> bool:
        """Whether this line was not asked about before: stages meet the same change twice."""
        new = line not in self._told
        self._told.add(line)
        return new

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
        complete = (self.trained / stage / _COMPLETE).exists()
        if not marker.exists():
            self._note(stage)
            return complete
        then = self.record_of(stage)
        differ, execution = config_record.differences(then, now)
        if differ and not complete and not self.is_begun(stage):
            # A loss that was not finite, or a first try of evaluation: nothing is there to lose.
            shown = _show(then, now, differ)
            _LOG.info("%s: %s; it has no weights yet and begins anew", stage, shown)
            self._note(stage)
        elif differ:
            raise errors.UserError(
                f"{self.trained / stage} was made with another config "
                f"({_show(then, now, differ)}); {self._advise(stage, differ)}"
            )
        elif execution and self.tell_once(f"{stage}: {_show(then, now, execution)}"):
            shown = _show(then, now, execution)
            _LOG.info("%s: %s; the weights are those of any way to compute them", stage, shown)
        return complete

    def _note(self, stage: str) -> None:
        """Writes the stage's record: before it begins, so that a stopped one is not resumed with
        another config either. Another's folder (`eval.run`) is only read."""
        if self.trained == self.folder:
            text = json.dumps(self._records[stage], indent=1, sort_keys=True)
            atomic_files.write_text(self.trained / stage / _MARKER, text)

    def record_of(self, stage: str) -> dict[str, Any]:
        """The record that the folder holds of a stage, in the keys of today; {} without any.

        Raises:
          UserError: it is damaged.
        """
        marker = self.trained / stage / _MARKER
        if not marker.exists():
            return {}
        return config_record.rename_flat(json_file.read_object(marker))

    def advise_not_finite(self, stage: str, section: str) -> str:
        """What to change when a loss of the stage is not finite; `section` is its optimiser's."""
        advice = f"lower {section}.lr, set {section}.grad_clip_norm, or look at the data"
        if stage != "denoiser":
            return f"{advice}, in another --workdir"
        return f"{advice}: another --workdir with {self._carry(stage)} goes on from there"

    def _carry(self, stage: str) -> str:
        """The flags with which another run starts from the weights of this one."""
        words = f"--config.denoiser.init={self.trained}"
        own = self._records.get(stage, {}).get("autoencoder.checkpoint")
        if own is not None:
            # Without it the new run would train an autoencoder of its own, with other latents.
            words += f" --config.autoencoder.checkpoint={own or self.trained}"
        return words

    def _advise(self, stage: str, differ: Sequence[str]) -> str:
        """What to do instead. The trained weights stay where they are, whatever is done."""
        carry = self._carry(stage)
        if stage != "denoiser" or any(key.startswith("autoencoder.") for key in differ):
            return "choose another --workdir, which trains anew, or go on with the values of before"
        if all(key.startswith(_SCHEDULE) for key in differ):
            return f"to carry its weights on, as for more steps: another --workdir with {carry}"
        return (
            f"choose another --workdir ({carry} starts there from its weights, if the network is "
            "the same), or go on with the values of before"
        )

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
        return json_file.read_object(path)

    def number(self, stage: str, name: str) -> float:
        """A number among the facts of a finished stage. Every process must call it.

        Raises UserError when the stage is not finished, or says something else there.
        """
        return agreement.from_first(lambda: self.number_here(stage, name))

    def number_here(self, stage: str, name: str) -> float:
        """`number` as this process alone sees it."""
        return self._check_number(stage, name, self.facts_here(stage).get(name))

    def numbers_here(self, stage: str, name: str) -> float | list[float]:
        """`number_here`, or several where a stage recorded a list."""
        found = self.facts_here(stage).get(name)
        if isinstance(found, list):
            return [self._check_number(stage, name, one) for one in found]
        return self._check_number(stage, name, found)

    def _check_number(self, stage: str, name: str, found: Any) -> float:
        if (
            isinstance(found, bool)
            or not isinstance(found, int | float)
            or not math.isfinite(found)
        ):
            raise errors.UserError(
                f"{self.trained / stage / _COMPLETE}: {name}: found {messages.shorten(found)}, "
                "accepted: a number"
            )
        return float(found)


def _show(then: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The keys with their values of before and of now."""
    shown = [
        f"{k}: {messages.shorten(repr(then.get(k)))} -> {messages.shorten(repr(now.get(k)))}"
        for k in keys[:5]
    ]
    return ", ".join(shown)


def of_parts(parts: parts_lib.Parts, folder: epath.PathLike) -> Workdir:
    """The folder of a run of these parts."""
    records = {stage: parts.stage_record(stage) for stage in parts.stage_keys}
    return Workdir(folder, parts.evaluation.run, records)
