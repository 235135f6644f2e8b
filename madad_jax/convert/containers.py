"""From whatever a weights file holds to a flat state dict of one network.

Files are told apart by content, folders by what lies in them. What the file holds is laid out
under dotted names (`tensor_names.py`), the network is found by the names of tensors that only it
has, and the rest is left out. Each step and everything that is left out is told in `notes`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from madad_jax.convert import (
    diffusers_keys,
    npz_file,
    safetensors_file,
    tensor_names,
    tensors,
    torch_file,
    unpickle,
    weight_files,
)
from madad_jax.core import errors, messages

KINDS = tuple(tensor_names.MARKS)
# Trained beside an autoencoder, not part of it.
BESIDE_AUTOENCODER = ("loss.", "discriminator.", "model_ema.")
# Numbers that a byte of the file may stand for: one of int8, and a matrix that is used twice.
_NUMBERS_A_BYTE = 2
_FEW = 1 << 20
_MAX_MODULES = 20_000

walk_scripted = tensor_names.walk_scripted  # for what reads TorchScript by `torch_file` itself


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's state dict in the published names; `settings` are facts beside the tensors."""

    kind: str
    state: dict[str, np.ndarray]
    notes: list[str]
    settings: dict[str, int]  # num_heads, num_groups: where the file tells them


def load(path: epath.PathLike, kind: str = "", prefix: str = "") -> Weights:
    """Reads weights of any accepted form.

    Args:
        path: `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors`, told apart by content; an index of
            shards; or a folder that holds one of them.
        kind: one of `KINDS`; guessed from the names when empty.
        prefix: of the tensors to take, where the file holds several networks of this kind.

    Raises:
        UserError: no such file, damaged, not accepted, or it asks to run something.
    """
    name = str(path)
    files = weight_files.find(epath.Path(path), kind)
    with _opened(files) as (root, size):
        table = tensor_names.flat(name, root)
        _check_any(name, root, table)
        notes: list[str] = []
        kind = kind or tensor_names.guess(name, table.tensors)
        prefix, said = tensor_names.choose(name, kind, table.tensors, prefix)
        module = _module(table, prefix)
        if module is not None:
            shown = messages.shorten(module.kind)
            notes.append(f"pickled module {shown}: its tensors are taken, no code is run")
        notes += said
        state = tensor_names.taken(table.tensors, prefix, notes)
        if table.others:
            left = tensor_names.summary(table.others)
            notes.append(f"{len(table.others)} entries that are no tensors dropped ({left})")
        state = _of_kind(kind, state, notes)
        values = _values(name, state, size)
    odd = [key for key, array in values.items() if not np.isfinite(array).all()]
    if odd:
        notes.append(f"{len(odd)} tensors hold NaN or infinity ({tensor_names.summary(odd)})")
    settings = _settings(module) if module is not None else weight_files.facts(files[0])
    if kind == "autoencoder" and diffusers_keys.is_one(values):
        notes.append("diffusers' names translated to LDM's")
        values = diffusers_keys.to_ldm(values)
    return Weights(kind, values, notes, settings)


def read_arrays(path: epath.PathLike, option: str) -> dict[str, np.ndarray]:
    """Every array of a `.npz`, `.safetensors` or PyTorch file by its name, without wrappers' words.

    Args:
        path: told apart by content.
        option: what named the file, for complaints: "--verify", "autoencoder.lpips".

    Returns:
        {name: array}, of the types in the file; bfloat16 as float32.

    Raises:
        UserError: no such file, damaged, not accepted, or it asks to run something.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise errors.UserError(f"{option}: no file {path}")
    try:
        with _opened([file]) as (root, size):
            table = tensor_names.flat(str(path), root)
            _check_any(str(path), root, table)
            return _read(str(path), table.tensors, size)
    except errors.UserError as error:
        raise errors.UserError(f"{option}: {error}") from error


@contextlib.contextmanager
def _opened(files: list[epath.Path]) -> Iterator[tuple[Any, int]]:
    """(what the files hold, how many bytes they have), open while the context is."""
    with contextlib.ExitStack() as stack:
        roots, size = [], 0
        for file in files:
            try:
                stream = stack.enter_context(file.open("rb"))
                size += file.stat().length
            except OSError as error:
                raise errors.UserError(f"{file}: {error.strerror or error}") from error
            if safetensors_file.is_one(stream):
                roots.append(safetensors_file.load(str(file), stream))
            elif npz_file.is_one(stream):
                roots.append(npz_file.load(str(file), stream))
                size += npz_file.MOST_BYTES  # its own bound, on what is compressed, holds
            else:
                roots.append(stack.enter_context(torch_file.opened(str(file), stream)))
        yield (roots[0] if len(roots) == 1 else _merged(files, roots)), size


def _merged(files: list[epath.Path], roots: list[Any]) -> dict[Any, Any]:
    """The tables of shards as one."""
    merged: dict[Any, Any] = {}
    for file, root in zip(files, roots, strict=True):
        if not isinstance(root, dict):
            raise errors.UserError(f"{file}: a shard that is no table of tensors")
        twice = next((key for key in root if key in merged), None)
        if twice is not None:
            shown = messages.shorten(twice) if isinstance(twice, str) else "a number"
            raise errors.UserError(f"{file}: '{shown}' stands in another shard too")
        merged |= root
    return merged


def _check_any(name: str, root: Any, table: tensor_names.Table) -> None:
    """Raises `UserError` when there is no tensor at all."""
    if table.tensors:
        return
    found = getattr(root, "kind", type(root).__name__)
    if isinstance(root, dict):
        found = tensor_names.summary(table.others) if table.others else "nothing"
    raise errors.UserError(
        f"{name}: holds no weights that can be used; found {messages.shorten(found, 200)}, "
        "accepted are a state dict, a module, or tables of them"
    )


def _module(table: tensor_names.Table, prefix: str) -> unpickle.Inert | None:
    """The pickled module that the tensors under `prefix` belong to."""
    around = [place for place in table.modules if prefix.startswith(place)]
    return table.modules[max(around, key=len)] if around else None


def _settings(module: unpickle.Inert) -> dict[str, int]:
    """Heads and groups, which the tensors do not show, from the first layers that tell."""
    found: dict[str, int] = {}
    waiting = [module]
    for _ in range(_MAX_MODULES):
        if not waiting or len(found) == 2 or len(waiting) > _MAX_MODULES:
            break
        current = waiting.pop()
        for key, kind in (("num_heads", "Attention"), ("num_groups", "GroupNorm")):
            value = current.get(key)
            if kind in current.kind and type(value) is int and 0 < value < 2**16:
                found.setdefault(key, value)
        children = current.get("_modules")
        children = children.values() if isinstance(children, dict) else ()
        waiting.extend(v for v in children if isinstance(v, unpickle.Inert))
    return found


def _of_kind(kind: str, state: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The tensors of the network alone."""
    if kind == "autoencoder":
        beside = {key for key in state if key.startswith(BESIDE_AUTOENCODER)}
        if beside:
            words = ", ".join(BESIDE_AUTOENCODER)
            notes.append(f"{len(beside)} tensors of training alone dropped ({words})")
        state = {key: value for key, value in state.items() if key not in beside}
    # No network here has a weight without axes: these count steps, or say whether one has begun.
    scalars = [key for key, tensor in state.items() if not tensor.shape]
    if scalars:
        notes.append(f"{len(scalars)} counters dropped ({tensor_names.summary(scalars)})")
    return {key: tensor for key, tensor in state.items() if tensor.shape}


def _values(name: str, state: dict[str, tensors.Tensor], size: int) -> dict[str, np.ndarray]:
    """Weights as float32."""
    for key, tensor in state.items():
        if math.prod(tensor.shape) and tensor.dtype in ("bool", "uint8"):
            raise errors.UserError(
                f"{name}: {messages.shorten(key)} is of {tensor.dtype}; weights are floating-point"
            )
    # float64 beyond float32's range becomes infinite, in silence as for every cast of weights.
    with np.errstate(over="ignore"):
        return {
            key: np.asarray(array, np.float32) for key, array in _read(name, state, size).items()
        }


def _read(name: str, state: dict[str, tensors.Tensor], size: int) -> dict[str, np.ndarray]:
    """Arrays of tensors, when all of them together are no larger than the file allows."""
    total = sum(math.prod(tensor.shape) for tensor in state.values())
    if total > _NUMBERS_A_BYTE * size + _FEW:
        raise errors.UserError(
            f"{name}: its tensors unpack to {total} numbers, the file has {size} bytes; accepted "
            f"are at most {_NUMBERS_A_BYTE} a byte"
        )
    # By storage, so that one that many tensors share is read once.
    order = sorted(state, key=lambda key: (state[key].name, state[key].storage.place))
    values = {key: state[key].read() for key in order}
    return {key: values[key] for key in state}
