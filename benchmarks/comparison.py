"""One line of a parity table, and the table."""

import dataclasses
import platform

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: the largest error found and the largest accepted."""

    file: str
    what: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; a NaN is not."""
        return bool(self.error <= self.tolerance)


def nhwc(x: np.ndarray) -> np.ndarray:
    """[..., c, h, w] -> [..., h, w, c]."""
    return np.moveaxis(x, -3, -1)


def largest(ours, theirs, relative_to: float = 1.0) -> float:
    """Largest absolute difference, over `relative_to`."""
    difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    return float(difference.max() / relative_to)


def table(rows: list[Row]) -> str:
    """Markdown: what was run, then one line a comparison."""
    device = jax.devices()[0]
    lines = [
        "# Agreement with the official code's numbers",
        "",
        f"`python -m benchmarks.parity --golden=DIR`, JAX {jax.__version__}, "
        f"{device.device_kind} ({device.platform}), Python {platform.python_version()}, float32, "
        'matmul precision "highest". Errors are absolute unless said.',
        "",
        "| file | what | largest error | tolerance | |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.file} | {r.what} | {r.error:.2g} | {r.tolerance:.2g} | {'' if r.passed else 'NO'} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"
