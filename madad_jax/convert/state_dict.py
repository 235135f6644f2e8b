"""Between a PyTorch state dict and our nested parameters: names, layouts, checks.

A kind of network gives two small functions, the published name of one of our modules and the
number of trailing unit axes of its matrices; everything else is the same for all:

- `weight` is our `kernel` (convolutions, linear maps) or `scale` (norms); `bias` is `bias`;
- convolutions: OIHW there, HWIO here; linear maps (out, in) there, (in, out) here; parallel
  maps (parts * out, in) there, (in, parts, out) here, and their bias (parts, out);
- 1x1 convolutions are plain matrices here: (O, I, 1) and (O, I, 1, 1) lose their unit axes.

Only numpy; tensors come and go as float32 and no value is changed.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from madad_jax.core import errors, messages

# Our axes in the order that they have there, by their number.
_AXES = {1: (0,), 2: (1, 0), 3: (1, 2, 0), 4: (3, 2, 0, 1)}
MAX_PARTS = 512  # blocks or levels; the deepest published networks have some fifty
LISTED = 10  # names spelt out per complaint; the rest is a count


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one kind of network is named: published module name and unit axes, by our path.

    `tables` are parameters of no layer, that keep their axes: {leaf of ours: (name there, its
    leading axes of length 1)}.
    """

    kind: str
    module_name: Callable[[tuple[str, ...]], str]
    unit_axes: Callable[[tuple[str, ...]], int]
    tables: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)

    def key(self, path: tuple[str, ...]) -> str:
        """State-dict key of the tensor at `path` of our tree."""
        if path[-1] in self.tables:
            return ".".join(filter(None, (self.module_name(path[:-1]), self.tables[path[-1]][0])))
        leaf = "bias" if path[-1] == "bias" else "weight"
        return f"{self.module_name(path[:-1])}.{leaf}"

    def official_shape(self, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape there of a tensor of `shape` here."""
        if path[-1] in self.tables:
            return (1,) * self.tables[path[-1]][1] + shape
        if path[-1] == "bias":
            return (math.prod(shape),)
        if len(shape) == 4:
            return (shape[3], shape[2], shape[0], shape[1])
        if len(shape) == 3:
            return (shape[1] * shape[2], shape[0])
        if len(shape) == 2:
            return (shape[1], shape[0]) + (1,) * self.unit_axes(path[:-1])
        return shape

    def turns(self, path: tuple[str, ...]) -> bool:
        """Whether the axes of the tensor at `path` have another order there."""
        return path[-1] != "bias" and path[-1] not in self.tables


def flatten(params: Any) -> dict[tuple[str, ...], Any]:
    """Nested dict -> {path: leaf}."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {tuple(str(part.key) for part in path): leaf for path, leaf in leaves}


def to_official(params: Any, naming: Naming) -> dict[str, np.ndarray]:
    """Our parameters as a state dict (float32)."""
    state = {}
    for path, leaf in flatten(params).items():
        array = np.asarray(leaf, np.float32)
        shape = naming.official_shape(path, array.shape)
        if naming.turns(path):
            array = array.transpose(_AXES[array.ndim])
        state[naming.key(path)] = np.ascontiguousarray(array).reshape(shape)
    return state


def to_ours(state: Mapping[str, np.ndarray], template: Any, naming: Naming) -> dict[str, Any]:
    """A state dict as our parameters.

    Args:
        state: {published key: array}.
        template: our tree with shapes (arrays or `jax.ShapeDtypeStruct`).
        naming: of this kind of network.

    Raises:
        UserError: tensors are missing, unexpected or misshapen; all are listed, ten by name.
    """
    wanted = flatten(template)
    _check(state, wanted, naming)
    params: dict[str, Any] = {}
    for path, leaf in wanted.items():
        array = np.asarray(state[naming.key(path)], np.float32)
        if naming.turns(path):
            there = [leaf.shape[axis] for axis in _AXES[len(leaf.shape)]]
            array = array.reshape(there).transpose(np.argsort(_AXES[len(leaf.shape)]))
        array = array.reshape(leaf.shape)
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = np.ascontiguousarray(array)
    return params


def _check(
    state: Mapping[str, np.ndarray], wanted: dict[tuple[str, ...], Any], naming: Naming
) -> None:
    shapes = {naming.key(p): naming.official_shape(p, leaf.shape) for p, leaf in wanted.items()}
    missing = [key for key in shapes if key not in state]
    unexpected = [key for key in state if key not in shapes]
    misshapen = [
        f"{key} {_shown(np.shape(state[key]))} instead of {_shown(shape)}"
        for key, shape in shapes.items()
        if key in state and tuple(np.shape(state[key])) != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    complaints = [
        f"{len(names)} {word} ({', '.join(map(messages.shorten, sorted(names)[:LISTED]))}"
        f"{', ...' if len(names) > LISTED else ''})"
        for word, names in found.items()
        if names
    ]
    if complaints:
        raise errors.UserError(f"{naming.kind} weights do not fit: {'; '.join(complaints)}")


def _shown(shape: tuple[int, ...]) -> str:
    return messages.shorten(tuple(shape))


def size(state: Mapping[str, np.ndarray], key: str, axis: int, kind: str) -> int:
    """Length of one axis of a tensor that sizes are inferred from.

    Raises:
        UserError: the tensor is not there, has too few axes, or none along this one.
    """
    if key not in state or np.ndim(state[key]) <= axis:
        found = "no such tensor" if key not in state else f"shape {np.shape(state[key])}"
        raise errors.UserError(f"no {kind} state dict: {key}: {found}")
    length = int(np.shape(state[key])[axis])
    if length < 1:
        raise errors.UserError(f"no {kind} state dict: {key}: shape {np.shape(state[key])}")
    return length


def count(state: Mapping[str, np.ndarray], pattern: str, start: int = 0) -> int:
    """How many consecutive numbers, from `start`, make `pattern` (with {}) a key's beginning.

    Raises:
        UserError: more than a network has of anything.
    """
    before, after = pattern.split("{}")
    begins = re.compile(rf"{re.escape(before)}(\d{{1,6}}){re.escape(after)}")
    numbers = {int(match[1]) for key in state if (match := begins.match(key))}
    n = start
    while n in numbers:
        n += 1
    # A network of that many parts would be traced for hours before its first tensor is missed.
    if n > MAX_PARTS:
        raise errors.UserError(f"{pattern.format(n - 1)}: a network of more than {MAX_PARTS} parts")
    return n - start


@contextlib.contextmanager
def sizes_checked(kind: str) -> Iterator[None]:
    """Sizes that make no network become one line; they are those that a file's shapes say.

    Raises:
        UserError: in place of what the network's own code raises for them.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, IndexError, TypeError, ValueError) as error:
        reason = messages.shorten(" ".join(str(error).split()) or type(error).__name__)
        raise errors.UserError(
            f"{kind} weights do not fit: their shapes make no network ({reason})"
        ) from error
