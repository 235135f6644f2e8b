"""Where in a weights file a network lies: by the names of tensors that only it has.

Every table and module of a file is laid out as one flat table of dotted names, so that a wrapper
(`module.`, `vae.`, `ema_model.`) and an entry ({"ema": {"shadow": ...}}) are the same thing: a
prefix of a tensor's name. The prefix of a network is whatever stands before its marks.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from madad_jax.convert import tensors, unpickle
from madad_jax.core import errors, messages

# Tensors that only this kind of network has; the first of them to be found tells where it lies.
MARKS = {
    "unet": ("input_blocks.0.0.weight", "input_blocks.0.0.bias", "out.2.weight"),
    "autoencoder": ("encoder.conv_in.weight", "encoder.conv_in.bias", "decoder.conv_out.weight"),
    "dit": ("x_embedder.proj.weight", "x_embedder.proj.bias", "final_layer.linear.weight"),
}
FIRST_STAGE = "first_stage_model."
MAX_NAME = 300  # characters
_LISTED = 10
_MAX_MODULES = 20_000
_MAX_DEPTH = 64
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged|shadow)([._]|$)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Table:
    """All that a file holds, by dotted names: tensors, other entries' names, pickled modules."""

    tensors: dict[str, tensors.Tensor]
    others: list[str]
    modules: dict[str, unpickle.Inert]  # by the prefix of their tensors


def flat(name: str, root: Any) -> Table:
    """Every tensor of nested tables and modules, by its dotted name.

    Args:
        name: of the file, for complaints.
        root: what the file holds.

    Raises:
        UserError: nested without end, a name that is too long or unprintable, too many tensors.
    """
    table = Table({}, [], {})
    waiting = [("", root, 0)]
    for prefix, value, depth in _popped(waiting):
        if depth > _MAX_DEPTH:
            raise errors.UserError(f"{name}: damaged: its entries are nested without end")
        if isinstance(value, unpickle.Inert) and isinstance(value.get("_modules"), dict):
            table.modules[prefix] = value
            pairs: Any = walk(name, value)
        elif isinstance(value, dict):
            pairs = value.items()
        else:
            table.others.append(prefix.rstrip("."))
            continue
        for key, inner in pairs:
            whole = _joined(name, prefix, key)
            if isinstance(inner, tensors.Tensor):
                table.tensors[whole] = inner
            elif isinstance(inner, dict | unpickle.Inert):
                waiting.append((f"{whole}.", inner, depth + 1))
            else:
                table.others.append(whole)
        entries = len(table.tensors) + len(table.others) + len(waiting)
        if entries > tensors.MAX_TENSORS:
            raise errors.UserError(f"{name}: more than {tensors.MAX_TENSORS} entries")
    return table


def walk(name: str, module: unpickle.Inert) -> Iterator[tuple[str, Any]]:
    """(dotted name, tensor) of a pickled module, as its `state_dict()` would list them.

    Raises:
        UserError: a module that contains itself.
    """
    for prefix, current, descend in _modules(name, module):
        hidden = current.get("_non_persistent_buffers_set") or ()
        for table in ("_parameters", "_buffers"):
            for key, value in _dict(current.get(table)).items():
                if isinstance(value, tensors.Tensor) and not (
                    table == "_buffers" and isinstance(hidden, set) and key in hidden
                ):
                    yield _joined(name, prefix, key), value
        for key, value in _dict(current.get("_modules")).items():
            if isinstance(value, unpickle.Inert):
                descend(_joined(name, prefix, key), value)


def walk_scripted(name: str, module: unpickle.Inert) -> Iterator[tuple[str, tensors.Tensor]]:
    """(dotted name, tensor) of a module of TorchScript, whose attributes they are.

    Raises:
        UserError: a module that contains itself.
    """
    for prefix, current, descend in _modules(name, module):
        for key, value in (pair for state in current.states for pair in state.items()):
            if isinstance(value, tensors.Tensor):
                yield _joined(name, prefix, key), value
            elif isinstance(value, unpickle.Inert):
                descend(_joined(name, prefix, key), value)


def _modules(name: str, module: unpickle.Inert) -> Iterator[tuple[str, unpickle.Inert, Any]]:
    """(prefix, module, function that takes a child) of every module, within bounds."""
    waiting = [("", module, 0)]
    for seen, (prefix, current, depth) in enumerate(_popped(waiting)):
        if depth > _MAX_DEPTH or seen > _MAX_MODULES or len(waiting) > _MAX_MODULES:
            raise errors.UserError(f"{name}: damaged: its modules are nested without end")

        def descend(path: str, child: unpickle.Inert, below: int = depth + 1) -> None:
            waiting.append((f"{path}.", child, below))

        yield prefix, current, descend


def _popped(waiting: list[Any]) -> Iterator[Any]:
    """Items of a list that grows while it is read, the last one first."""
    while waiting:
        yield waiting.pop()


def _joined(name: str, prefix: str, key: Any) -> str:
    """A dotted name; keys that are numbers become their digits."""
    plain = isinstance(key, str) or (type(key) is int and abs(key) < 2**63)
    text = str(key) if plain else type(key).__name__
    # Before they are joined: a long name in a deep file would multiply.
    if len(text) + len(prefix) > MAX_NAME or not text.isprintable():
        raise errors.UserError(f"{name}: damaged: a tensor is called '{messages.shorten(text)}'")
    return f"{prefix}{text}"


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def candidates(kind: str, keys: Any) -> list[str]:
    """Prefixes under which a network of this kind lies, sorted."""
    for mark in MARKS[kind]:
        found = {key[: -len(mark)] for key in keys if key.endswith(mark)}
        found = {prefix for prefix in found if not prefix or prefix.endswith(".")}
        if found:
            return sorted(found)
    return []


def guess(name: str, keys: Any) -> str:
    """The kind of network by names of tensors that only it has.

    Raises:
        UserError: none of them is there, or those of two kinds.
    """
    found = {kind: prefixes for kind in MARKS if (prefixes := candidates(kind, keys))}
    # The file of a latent diffusion model: its own U-Net is another network than ours.
    if FIRST_STAGE in "".join(found.get("autoencoder", ())):
        return "autoencoder"
    if len(found) == 1:
        return next(iter(found))
    if found:
        held = "; ".join(f"{kind} under {_quoted(prefixes)}" for kind, prefixes in found.items())
        raise errors.UserError(f"{name}: holds more than one network ({held}); choose by --kind")
    marks = " or ".join(marks[0] for marks in MARKS.values())
    raise errors.UserError(
        f"{name}: cannot tell the kind of network from its tensors ({summary(keys)}); accepted "
        f"are those with {marks}, after any prefix"
    )


def choose(name: str, kind: str, keys: Any, prefix: str = "") -> tuple[str, list[str]]:
    """The prefix of the network, and what there is to say of the choice.

    Args:
        name: of the file, for complaints.
        kind: of network.
        keys: names of all tensors.
        prefix: what the user asks for, "." for none; "" leaves the choice to the names.

    Returns:
        (prefix, notes). Of several the averaged weights (EMA) are taken.

    Raises:
        UserError: no such tensors, or several networks of this kind and none averaged.
    """
    if prefix:
        asked = "" if prefix == "." else f"{prefix.removesuffix('.')}."
        if any(key.startswith(asked) for key in keys):
            return asked, []
        raise errors.UserError(
            f"--prefix={messages.shorten(prefix)}: no tensor of {name} begins so; it holds "
            f"{summary(keys)}"
        )
    found = candidates(kind, keys)
    if not found:
        raise errors.UserError(
            f"{name}: no {kind} weights: no tensor is called {MARKS[kind][0]}, with or without a "
            f"prefix; it holds {summary(keys)}"
        )
    if len(found) == 1:
        return found[0], []
    averaged = [one for one in found if _AVERAGED.search(one)] or [
        one for one in found if one.endswith(FIRST_STAGE)
    ]
    if len(averaged) == 1:
        rest = _quoted(one for one in found if one != averaged[0])
        why = "averaged weights, EMA" if _AVERAGED.search(averaged[0]) else "the first stage"
        return averaged[0], [
            f"'{averaged[0]}' is taken ({why}), beside it {rest}; --prefix=NAME takes another"
        ]
    raise errors.UserError(
        f"{name}: holds more than one {kind}, under {_quoted(found)}; choose by --prefix=NAME"
    )


def taken(state: Mapping[str, Any], prefix: str, noted: list[str]) -> dict[str, Any]:
    """The tensors under a prefix, without it; what is left out is told in `noted`."""
    if not prefix:
        return dict(state)
    inside = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    noted.append(f"prefix '{prefix}' removed")
    outside = [key for key in state if not key.startswith(prefix)]
    if outside:
        noted.append(f"{len(outside)} tensors outside of '{prefix}' dropped ({summary(outside)})")
    return inside


def summary(keys: Any) -> str:
    """Names by their first word, with counts, the most frequent first: "vae.* (24), step"."""
    keys, common = list(keys), ""
    groups = _grouped(keys)
    while len(groups) == 1 and len(keys) > 1 and all("." in key for key in keys):
        first = next(iter(groups))
        common += f"{first}."
        keys = [key[len(first) + 1 :] for key in keys]
        groups = _grouped(keys)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [
        messages.shorten(
            f"{common}{first}.* ({len(inside)})" if len(inside) > 1 else common + inside[0]
        )
        for first, inside in ranked[:_LISTED]
    ]
    left = len(ranked) - _LISTED
    return ", ".join(shown) + (f" and {left} more" if left > 0 else "") or "no tensors"


def _grouped(keys: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition(".")[0], []).append(key)
    return groups


def _quoted(prefixes: Any) -> str:
    names = [f"'{messages.shorten(prefix, 60)}'" if prefix else "no prefix" for prefix in prefixes]
    return " and ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")
