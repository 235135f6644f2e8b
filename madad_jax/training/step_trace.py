"""A trace of some training steps, by JAX's profiler, on process 0.

`<run>/profile/<stage>/plugins/profile/<time>/` takes what the profiler writes: `*.xplane.pb` for
XProf (TensorBoard's profile plugin), `perfetto_trace.json.gz` for Perfetto.
"""

import logging
from typing import Any

import jax
from etils import epath

from madad_jax.core.types import Metrics

_LOG = logging.getLogger(__name__)


class StepTrace:
    """Starts before the first step that is asked for and stops after the last.

    Args:
      folder: takes the trace.
      steps: (first, last), counted from 1; None: no trace.
      start: steps that are finished already; those are not traced any more.
      stage: for messages.
    """

    def __init__(
        self, folder: epath.PathLike, steps: tuple[int, int] | None, start: int, stage: str
    ):
        self._folder, self._stage = epath.Path(folder), stage
        self._first, self._last = steps or (0, 0)
        self._open = False
        if steps and jax.process_index() == 0:
            self._first = max(self._first, start + 1)
            if self._first > self._last:
                _LOG.warning("%s: profile: step %d has passed; no trace", stage, self._last)
        else:
            self._first, self._last = 1, 0
        self._begin_before(start + 1)

    def after(self, step: int, metrics: Metrics) -> None:
        """Call after each step; `metrics` are those of the step, which may still be computed."""
        if self._open and step >= self._last:
            # The devices are behind the host: without it the trace lacks the last steps.
            jax.block_until_ready(metrics)
            self.close()
        self._begin_before(step + 1)

    def close(self) -> None:
        """Ends a trace that is open: of a run that ends before the last step was reached."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
            _LOG.info("%s: profile: a trace is in %s", self._stage, self._folder)

    def _begin_before(self, step: int) -> None:
        if not self._open and step == self._first <= self._last:
            self._folder.mkdir(parents=True, exist_ok=True)
            options: Any = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # a million calls of Python hide what devices do
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._open = True
