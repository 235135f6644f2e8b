"""What is scored of a run with several contrasts: a pass for each subset that was asked for.

Every subset has thresholds, a calibration and figures of its own. A set that lacks contrasts is
called by those that it has: `test` has all, `test-T1` shows T1 alone.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from madad_jax.assembly import parts as parts_lib
from madad_jax.data.sources import stacked
from madad_jax.evaluation import calibrate
from madad_jax.experiment import inputs as inputs_lib

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class View:
    """The slices of a run with some of its contrasts.

    Attributes:
      inputs: of the run.
      contrasts: that are shown; (): the run has one picture, and its slices are as they are.
      missing: the run's others.
      channel: of the first that is shown.
    """

    inputs: inputs_lib.Inputs
    contrasts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    channel: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """For rows and calibrations; nothing for a run of one picture."""
        if not self.contrasts:
            return {}
        return {"contrasts": list(self.contrasts), "missing": list(self.missing)}

    @property
    def calibration(self) -> str:
        """The file of its calibration."""
        return calibration_file(self.contrasts if self.missing else ())

    def name(self, split: str) -> str:
        """A set as results call it."""
        return f"{split}-{'+'.join(self.contrasts)}" if self.missing else split

    def source(self, split: str) -> Any:
        """One split. Raises UserError where no slice has all the contrasts."""
        return self._show(split, self.inputs.source(split))

    def healthy_source(self, split: str) -> Any:
        """The healthy companion of a test set; None where there is none."""
        found = self.inputs.healthy_source(split)
        return None if found is None else self._show(f"{split}_healthy", found)

    def _show(self, split: str, source: Any) -> Any:
        if not self.contrasts:
            return source
        shown = stacked.Restricted(source, self.contrasts)
        if shown.left_out:
            _LOG.warning(
                "%s: %d of %d slices lack one of %s and are left out; eval.contrasts names "
                "subsets to score them with",
                split,
                shown.left_out,
                len(source),
                ", ".join(self.contrasts),
            )
        return shown


def calibration_file(contrasts: tuple[str, ...]) -> str:
    """`calibration.npz`, or that of a subset of the run's contrasts."""
    if not contrasts:
        return calibrate.FILE
    stem, _, suffix = calibrate.FILE.rpartition(".")
    return f"{stem}-{'+'.join(contrasts)}.{suffix}"


def views(parts: parts_lib.Parts, inputs: inputs_lib.Inputs) -> Iterator[View]:
    """One for each subset of `eval.contrasts`; one alone for a run of one picture."""
    names = parts.data.contrasts
    for subset in parts.evaluation.contrasts or ((),):
        missing = tuple(name for name in names if name not in subset) if subset else ()
        yield View(inputs, subset, missing, names.index(subset[0]) if subset else 0)
