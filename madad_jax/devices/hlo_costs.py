"""Reads the text of a compiled XLA program: its collectives, FLOPs and bytes, loops counted.

`compiled.cost_analysis()` counts the body of a loop once, however often it runs (scans over
microbatches, DDIM steps and chunks of queries are loops), and says nothing of collectives. Here
every computation is weighed by how often it runs: bodies by the trip count that XLA writes into
the text. A program of several devices is SPMD: shapes and counts are those of one device.

- FLOPs: 2 m n k of matrix products, 2 x output x window x input channels of convolutions
  (padding counted as work); what is neither is left out.
- Of a conditional the branch with the most FLOPs counts.
- Bytes: operands and results of each kernel (a fusion is one), as if nothing stayed in cache.
- The CPU compiler has no reduce-scatter: gradients of split parameters are all-reduced and then
  sliced. XLA for GPU and TPU makes one reduce-scatter of the pair. `Collective.scattered` are the
  bytes of an all-reduce whose only reader is a slice.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from madad_jax.devices import hlo_parser

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that start no kernel: names for what is there, and callers, whose bodies are counted.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
# Bfloat16 gradients are widened to be summed, narrowed again and only then sliced.
_THROUGH = ("convert", "bitcast", "copy", "transpose", "reshape")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    `bytes` is the whole array a group works on: the result of an all-reduce, all-gather,
    all-to-all or permutation, the operand of a reduce-scatter. `times` is how often it runs.
    """

    kind: str
    shapes: tuple[hlo_parser.Shape, ...]
    bytes: float
    group_size: int
    groups: tuple[tuple[int, ...], ...]
    times: int
    scattered: float
    source: str  # `op_name` of the metadata

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one run, by the ring algorithm."""
        n = max(self.group_size, 1)
        if self.kind == "collective-permute":
            return self.bytes
        twice = 2 * self.bytes - self.scattered if self.kind == "all-reduce" else self.bytes
        return twice * (n - 1) / n


@dataclasses.dataclass(frozen=True)
class Program:
    """Costs of one run of a compiled program on one device."""

    flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    unknown_loops: int  # loops without a trip count in the text, counted as one run
    kernels: int = 0  # operations that are started one by one, loops counted


def read(text: str) -> Program:
    """Costs of the program whose `compiled.as_text()` is `text`."""
    computations, entry = hlo_parser.parse(text)
    flops = moved = 0.0
    unknown = kernels = 0
    found = []
    for name, times, kernel in _runs(computations, entry):
        table = {i.name: i for i in computations[name]}
        for i in table.values():
            flops += times * _flops(i, table)
            if not kernel and i.opcode not in _FREE and not i.opcode.endswith("-done"):
                moved += times * _moved(i, table, computations)
                kernels += times
            # An asynchronous collective is a pair, of which the first carries the shapes.
            kind = i.opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(_collective(kind, i, table, computations, times))
            unknown += i.opcode == "while" and _trips(i) is None
    return Program(flops, moved, tuple(found), unknown, kernels)


def contents(text: str) -> dict[str, frozenset[str]]:
    """{instruction: operations that it runs} of every instruction of a compiled program's text: its
    own, or those of the computations that a fusion or a call holds, all the way down."""
    computations, _ = hlo_parser.parse(text)

    def inside(i: hlo_parser.Instruction) -> frozenset[str]:
        called = [name for names in i.called().values() for name in names if name in computations]
        if i.opcode not in ("fusion", "call", "while", "conditional"):
            return frozenset({i.opcode})
        parts = [inside(x) for name in called for x in computations[name]]
        return frozenset({i.opcode}).union(*parts)

    return {i.name: inside(i) for part in computations.values() for i in part}


def _trips(i: hlo_parser.Instruction) -> int | None:
    count = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.rest)
    return int(count.group(1)) if count else None


def _runs(
    computations: dict[str, list[hlo_parser.Instruction]], entry: str
) -> Iterator[tuple[str, int, bool]]:
    """(computation, how often it runs, whether it is the inside of one kernel), callers first."""
    queue = [(entry, 1, False)]
    while queue:
        name, times, kernel = queue.pop()
        yield name, times, kernel
        for i in computations[name]:
            trips = (_trips(i) or 1) if i.opcode == "while" else 1
            called = i.called()
            if i.opcode == "conditional":
                branches = [n for names in called.values() for n in names if n in computations]
                called = {"branch": [max(branches, key=lambda n: _total(computations, n))]}
            for role, names in called.items():
                # The small function of a reduction, a sort or a scatter is part of it.
                if role == "to_apply" and i.opcode != "call":
                    continue
                inside = kernel or i.opcode == "fusion"
                queue += [(n, times * trips, inside) for n in names if n in computations]


def _total(computations: dict[str, list[hlo_parser.Instruction]], start: str) -> float:
    """FLOPs of one run of a computation."""
    total = 0.0
    for name, times, _ in _runs(computations, start):
        table = {i.name: i for i in computations[name]}
        total += times * sum(_flops(i, table) for i in table.values())
    return total


def _flops(i: hlo_parser.Instruction, table: dict[str, hlo_parser.Instruction]) -> float:
    if i.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (table[name].shapes[0] for name in i.operands[:2])
    out = i.shapes[0].size
    if i.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
        summed = [int(n) for n in axes.group(1).split(",") if n] if axes else []
        return 2.0 * out * math.prod(left.dims[n] for n in summed)
    labels = re.search(r"dim_labels=\w+_(\w+)->", i.rest).group(1)
    # The kernel's input channels are already those of one feature group.
    inner = math.prod(n for n, label in zip(right.dims, labels, strict=True) if label != "o")
    return 2.0 * out * inner


def _moved(
    i: hlo_parser.Instruction,
    table: dict[str, hlo_parser.Instruction],
    computations: dict[str, list[hlo_parser.Instruction]],
) -> float:
    """Bytes of operands and results; of an operand that is only sliced, the slices."""
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * i.bytes
    if i.opcode == "dynamic-update-slice":
        return 2 * table[i.operands[1]].bytes
    inner = computations.get((i.called().get("calls") or [""])[0], [])
    sliced, result = _slices(inner), i.bytes
    root = next((x for x in inner if x.root), None)
    if root is not None and root.opcode == "dynamic-update-slice":
        result = {x.name: x for x in inner}[root.operands[1]].bytes
    read_ = 0.0
    for number, name in enumerate(i.operands):
        if name in table:
            read_ += sliced.get(number, table[name].bytes)
    return read_ + result


def _users(name: str, inner: list[hlo_parser.Instruction]) -> list[hlo_parser.Instruction]:
    """What reads a value, or the same numbers in another type or order."""
    found = []
    for x in inner:
        if name in x.operands:
            through = x.opcode in _THROUGH and not x.root
            found += _users(x.name, inner) if through else [x]
    return found


def _slices(inner: list[hlo_parser.Instruction]) -> dict[int, float]:
    """{parameter number: bytes} of the parameters of a fusion that are only sliced or updated."""
    found = {}
    for parameter in inner:
        if parameter.opcode != "parameter":
            continue
        users = _users(parameter.name, inner)
        number = int(parameter.inside)
        if users and all(x.opcode in ("dynamic-slice", "slice") for x in users):
            found[number] = sum(x.bytes for x in users)
        elif users and all(
            x.opcode == "dynamic-update-slice" and x.operands[0] == parameter.name for x in users
        ):
            found[number] = 0.0
    return found


def _collective(
    kind: str,
    i: hlo_parser.Instruction,
    table: dict[str, hlo_parser.Instruction],
    computations: dict[str, list[hlo_parser.Instruction]],
    times: int,
) -> Collective:
    shapes = i.shapes
    if i.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results) and, of a permutation, two numbers.
        shapes = tuple(s for s in shapes if s.dims or s.dtype not in ("u32", "s32"))
        shapes = shapes[len(shapes) // 2 :]
    size = sum((shape.bytes for shape in shapes), 0.0)
    if kind == "reduce-scatter":
        size = sum((table[name].bytes for name in i.operands), 0.0)
    groups = _groups(i.rest)
    return Collective(
        kind=kind,
        shapes=shapes,
        bytes=size,
        group_size=max(map(len, groups)) if groups else 0,
        groups=groups,
        times=times,
        scattered=_scattered(i, table, computations) if kind == "all-reduce" else 0.0,
        source=(re.findall(r'op_name="([^"]*)"', i.rest) or [""])[0],
    )


def _scattered(
    i: hlo_parser.Instruction,
    table: dict[str, hlo_parser.Instruction],
    computations: dict[str, list[hlo_parser.Instruction]],
) -> float:
    """Bytes of those results of an all-reduce that are only sliced afterwards."""
    total = 0.0
    names = {i.name: i.bytes}
    if len(i.shapes) > 1:
        names = {x.name: x.bytes for x in table.values() if i.name in x.operands}
    for name, size in names.items():
        total += size if _only_sliced(name, table, computations) else 0
    return total


def _only_sliced(
    name: str,
    table: dict[str, hlo_parser.Instruction],
    computations: dict[str, list[hlo_parser.Instruction]],
) -> bool:
    users = [x for x in table.values() if name in x.operands]
    for user in users:
        inner = computations.get((user.called().get("calls") or [""])[0], [])
        plain = all(x.opcode in (*_THROUGH, "parameter") for x in inner)
        if user.opcode in _THROUGH or (user.opcode == "fusion" and plain):
            if not _only_sliced(user.name, table, computations):
                return False
        elif user.opcode == "fusion":
            sliced = _slices(inner)
            if not all(sliced.get(n) for n, x in enumerate(user.operands) if x == name):
                return False
        elif user.opcode != "dynamic-slice":
            return False
    return bool(users)


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """Devices that work together, from any of XLA's ways to write them.

    Pairs for a permutation, `{{0,1},{2,3}}`, `[2,2]<=[4]` (an iota, reshaped, transposed), or
    `mesh['x'=2,'y'=2] {'y'}`: the devices of a grid, perhaps in another order than theirs, that
    differ in the named axes alone.
    """
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}\s]*\})\}", rest)
    if listed:
        return tuple(
            tuple(int(n) for n in group.split(","))
            for group in re.findall(r"\{([\d,\s]+)\}", listed.group(1))
        )
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        shape, dims, order = (_numbers(g) for g in iota.groups())
        devices = np.arange(math.prod(dims)).reshape(dims)
        return _rows((devices.transpose(order) if order else devices).reshape(shape))
    grid = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if not grid:
        return ()
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", grid.group(1))}
    devices = np.arange(math.prod(sizes.values()))
    ids = re.search(r"device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\)", grid.group())
    if ids:
        devices = devices.reshape(_numbers(ids.group(1))).transpose(_numbers(ids.group(2)))
    devices = devices.reshape(list(sizes.values()))
    # A part of an axis is written 'x':(before)length.
    for name, before, length in re.findall(r"'(\w+)':\((\d+)\)(\d+)", grid.group(2)):
        at = list(sizes).index(name)
        parts = {f"{name}<": int(before), name: int(length)}
        parts[f"{name}>"] = sizes[name] // math.prod(parts.values())
        items = list(sizes.items())
        sizes = dict([*items[:at], *parts.items(), *items[at + 1 :]])
        devices = devices.reshape(list(sizes.values()))
    together = re.findall(r"'(\w+)'", grid.group(2))
    order = [n for n, name in enumerate(sizes) if name not in together]
    order += [n for n, name in enumerate(sizes) if name in together]
    rows = devices.transpose(order).reshape(-1, math.prod(sizes[name] for name in together))
    return _rows(rows)


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def _rows(devices: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in row) for row in devices)
