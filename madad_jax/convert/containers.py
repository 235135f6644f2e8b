"""From whatever a weights file holds to a flat state dict of one network.

Unwrapped, in this order: {"ema" | "model" | "state_dict" | ...: inside}; a pickled `nn.Module`
(walked through `_parameters`, `_buffers`, `_modules`); prefixes that wrappers add. Each step and
everything that is left out is told in `notes`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from madad_jax.convert import diffusers_keys, safetensors_file, tensors, torch_file, unpickle
from madad_jax.core import errors

KINDS = ("unet", "autoencoder", "dit")
WRAPPERS = ("ema", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, Lightning
FIRST_STAGE = "first_stage_model."
# Trained beside an autoencoder, not part of it.
BESIDE_AUTOENCODER = ("loss.", "discriminator.", "model_ema.")
# A tensor that only this kind of network has.
_MARKS = {
    "unet": "input_blocks.0.0.weight",
    "autoencoder": "encoder.conv_in.weight",
    "dit": "x_embedder.proj.weight",
}
MAX_KEY = 300  # characters
_MAX_MODULES = 20_000
_MAX_DEPTH = 64


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's state dict in the published names; `settings` are facts beside the tensors."""

    kind: str
    state: dict[str, np.ndarray]
    notes: list[str]
    settings: dict[str, int]  # num_heads, num_groups: where the file tells them


def load(path: epath.PathLike, kind: str = "") -> Weights:
    """Reads a weights file of any accepted form.

    Args:
        path: `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors`; told apart by content.
        kind: one of `KINDS`; guessed from the names when empty.

    Raises:
        UserError: no such file, damaged, not accepted, or it asks to run something.
    """
    with _opened(epath.Path(path)) as root:
        notes: list[str] = []
        inside = _unwrap(str(path), root, notes)
        settings = _settings(inside) if isinstance(inside, unpickle.Inert) else {}
        if isinstance(inside, unpickle.Inert):
            notes.append(f"pickled module {inside.kind}: its tensors are taken, no code is run")
            inside = dict(walk(str(path), inside))
        state = {k: v for k, v in inside.items() if isinstance(v, tensors.Tensor)}
        strange = [key for key in inside if not key.isprintable() or len(key) > MAX_KEY]
        if strange:
            raise errors.UserError(f"{path}: damaged: a tensor is called {strange[0][:MAX_KEY]!r}")
        if len(state) < len(inside):
            notes.append(f"{len(inside) - len(state)} entries that are no tensors dropped")
        state = _strip(state, notes)
        kind = kind or guess(str(path), state)
        state = _of_kind(kind, state, notes)
        values = {key: _value(str(path), key, tensor) for key, tensor in state.items()}
    if kind == "autoencoder" and diffusers_keys.is_one(values):
        notes.append("diffusers' names translated to LDM's")
        values = diffusers_keys.to_ldm(values)
    return Weights(kind, values, notes, settings)


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
    if not path.is_file():
        raise errors.UserError(f"--in={path}: no such file")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise errors.UserError(f"--in={path}: {error.strerror or error}") from error
    with stream:
        if safetensors_file.is_one(stream):
            yield safetensors_file.load(str(path), stream)
            return
        with torch_file.opened(str(path), stream) as root:
            yield root


def guess(name: str, keys: Any) -> str:
    """The kind of network by the name of a tensor that only it has.

    Raises:
        UserError: none of them is there.
    """
    for kind, mark in _MARKS.items():
        if any(key == mark or key == f"{FIRST_STAGE}{mark}" for key in keys):
            return kind
    shown = ", ".join(sorted(keys)[:10])
    raise errors.UserError(
        f"{name}: cannot tell the kind of network from its tensors ({shown}); accepted are "
        f"those with {' or '.join(_MARKS.values())}"
    )


def walk(name: str, module: unpickle.Inert) -> Iterator[tuple[str, Any]]:
    """(dotted name, tensor) of a pickled module, as its `state_dict()` would list them.

    Raises:
        UserError: a module that contains itself.
    """
    waiting = [("", module, 0)]
    seen = 0
    while waiting:
        prefix, current, depth = waiting.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_MODULES:
            raise errors.UserError(f"{name}: damaged: its modules are nested without end")
        hidden = current.get("_non_persistent_buffers_set") or ()
        for table in ("_parameters", "_buffers"):
            for key, value in _dict(current.get(table)).items():
                if isinstance(value, tensors.Tensor) and not (
                    table == "_buffers" and isinstance(hidden, set) and key in hidden
                ):
                    yield f"{prefix}{key}", value
        for key, value in _dict(current.get("_modules")).items():
            if isinstance(value, unpickle.Inert):
                waiting.append((f"{prefix}{key}.", value, depth + 1))


def walk_scripted(name: str, module: unpickle.Inert) -> Iterator[tuple[str, tensors.Tensor]]:
    """(dotted name, tensor) of a module of TorchScript, whose attributes they are.

    Raises:
        UserError: a module that contains itself.
    """
    waiting = [("", module, 0)]
    seen = 0
    while waiting:
        prefix, current, depth = waiting.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_MODULES:
            raise errors.UserError(f"{name}: damaged: its modules are nested without end")
        for key, value in (pair for state in current.states for pair in state.items()):
            if isinstance(value, tensors.Tensor):
                yield f"{prefix}{key}", value
            elif isinstance(value, unpickle.Inert):
                waiting.append((f"{prefix}{key}.", value, depth + 1))


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _settings(module: unpickle.Inert) -> dict[str, int]:
    """Heads and groups, which the tensors do not show, from the first layers that tell."""
    found: dict[str, int] = {}
    waiting = [module]
    for _ in range(_MAX_MODULES):
        if not waiting or len(found) == 2:
            break
        current = waiting.pop()
        for key, kind in (("num_heads", "Attention"), ("num_groups", "GroupNorm")):
            value = current.get(key)
            if kind in current.kind and type(value) is int and value > 0:
                found.setdefault(key, value)
        children = _dict(current.get("_modules")).values()
        waiting.extend(v for v in children if isinstance(v, unpickle.Inert))
    return found


def _unwrap(name: str, root: Any, notes: list[str]) -> Any:
    """The module or the table of tensors inside of `root`."""
    for _ in range(4):
        if isinstance(root, unpickle.Inert) and root.get("_modules") is not None:
            return root
        if not isinstance(root, dict):
            break
        if any(isinstance(value, tensors.Tensor) for value in root.values()):
            return {str(k): v for k, v in root.items()}
        inner = next((key for key in WRAPPERS if isinstance(root.get(key), _INSIDE)), None)
        if inner is None:
            break
        others = sorted(repr(key)[:40] for key in root if key != inner and isinstance(key, str))
        left = f"; left out: {', '.join(others[:10])}" if others else ""
        notes.append(f"entry {inner!r} is taken{left}")
        root = root[inner]
    found = (
        ", ".join(sorted(repr(key)[:40] for key in root if isinstance(key, str))[:10])
        if isinstance(root, dict)
        else getattr(root, "kind", type(root).__name__)
    )
    raise errors.UserError(
        f"{name}: holds no weights that can be used; found {found}, accepted are a state dict, "
        f"a module, or either under {', '.join(WRAPPERS)}"
    )


_INSIDE = (dict, unpickle.Inert)


def _strip(state: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Without the prefixes that every key bears."""
    changed = True
    while changed and state:
        changed = False
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key[len(prefix) :]: value for key, value in state.items()}
                notes.append(f"prefix {prefix!r} removed")
                changed = True
    return state


def _of_kind(kind: str, state: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The tensors of the network alone."""
    if kind != "autoencoder":
        return state
    total = len(state)
    if any(key.startswith(FIRST_STAGE) for key in state):
        state = {k[len(FIRST_STAGE) :]: v for k, v in state.items() if k.startswith(FIRST_STAGE)}
        notes.append(f"{total - len(state)} tensors outside of {FIRST_STAGE!r} dropped")
        total = len(state)
    state = {k: v for k, v in state.items() if not k.startswith(BESIDE_AUTOENCODER)}
    if total > len(state):
        beside = ", ".join(BESIDE_AUTOENCODER)
        notes.append(f"{total - len(state)} tensors of training alone dropped ({beside})")
    return state


def _value(name: str, key: str, tensor: tensors.Tensor) -> np.ndarray:
    """A weight as float32."""
    if math.prod(tensor.shape) and tensor.dtype in ("bool", "uint8"):
        raise errors.UserError(f"{name}: {key} is of {tensor.dtype}; weights are floating-point")
    return np.asarray(tensor.read(), np.float32)
