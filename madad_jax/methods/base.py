"""The seam between a method and everything else (training, evaluation, prediction).

A method is a frozen dataclass of options and network functions. It holds no arrays:
`params` are trained, `frozen` are weights that are not (the autoencoder under MAD-AD),
and both are passed in, so that a method can be closed over by `jax.jit` for free.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax

from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.models import interfaces


@runtime_checkable
class Method(Protocol):
    """What a row of a results table has to be able to do."""

    name: str

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Fresh parameters for batches of the given shapes ({name: ShapeDtypeStruct})."""
        ...

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """A scalar to minimise and named scalars to log.

        `batch` has `image` [b,H,W,1] in [-1,1], `brain_mask` [b,H,W] and `step` (the
        optimiser step, a scalar, for terms that switch on later). `train=False` is the
        validation loss: no dropout and whole images, all other draws as in training.
        The best checkpoint is the one with the lowest validation loss. A method whose loss gains
        or loses terms with the step names another of its metrics as `selected_by`.
        With a network whose blocks have a loss of their own, the metrics hold their mean as
        `penalty` (`report_penalty`); `wrappers/penalised.py` adds it to the loss.
        """
        ...

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W], `reconstruction` [b,H,W,1], and further maps named `*_map`."""
        ...


@runtime_checkable
class HealthySlices(Protocol):
    """All training slices once: `len` of them, iterated in batches of one shape.

    A batch has `image` [b,H,W,1] and `brain_mask` [b,H,W]; the last one is filled up with slices
    that have no brain.
    """

    def __len__(self) -> int:
        """Number of slices."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Batches of numpy arrays."""
        ...


@runtime_checkable
class Fitted(Method, Protocol):
    """A method that is computed from healthy slices, on a network that it does not train.

    Its parameters hold that network's as `encoder`. `loss` is measured and never followed.
    """

    def fit(
        self,
        params: Params,
        slices: HealthySlices,
        key: jax.Array,
        progress: Callable[[str], None],
    ) -> Params:
        """All parameters, given those of the network.

        Args:
          params: `encoder` is used.
          slices: healthy ones.
          key: of every draw: the same key and slices give the same parameters.
          progress: called between steps with what is done; may raise to end the work.
        """
        ...


def recording(method: Method) -> Method:
    """The same method, whose loss gives the second moments of what its denoiser's layers multiply
    as the metric `moments`: {path of the layer: [d, d]} for each call of a network.

    Raises UserError for a method without a denoiser.
    """

    def changed(value: Any) -> Any:
        if isinstance(value, interfaces.Denoiser):
            return dataclasses.replace(value, records=True)
        # Methods, and what wraps them, are dataclasses of options and networks.
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return value
        fields = {
            f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name[0] != "_"
        }
        new = {name: changed(part) for name, part in fields.items()}
        differ = {name: part for name, part in new.items() if part is not fields[name]}
        return dataclasses.replace(value, **differ) if differ else value

    found = changed(method)
    if found is method:
        raise errors.UserError(f"train.tasks: found method={method.name}, which has no denoiser")
    return found


def report_penalty(*outputs: interfaces.Output) -> Metrics:
    """{"penalty": mean over the network's calls in one loss}; {} where no network has any. A
    network that records (`recording`) has its `moments` beside it.

    A method adds this to the metrics of its loss. A network called inside `jax.lax.scan` hands
    its output out of the scan like any other value.
    """
    # Known while tracing: None is no array, so a network without a penalty adds no metric.
    found = [output.penalty for output in outputs if output.penalty is not None]
    metrics: Metrics = {"penalty": sum(found) / len(found)} if found else {}
    recorded = [output.moments for output in outputs if output.moments is not None]
    if recorded:
        # One a call, and not their sum: the calls may be of two networks.
        metrics["moments"] = recorded
    return metrics
