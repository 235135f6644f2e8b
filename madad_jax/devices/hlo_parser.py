"""The text of a compiled XLA program as computations of instructions; what they cost is `hlo`."""

import collections
import dataclasses
import math
import re

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "s4": 0.5, "u4": 0.5}
_NAME = r"%?([\w.\-]+)"
_CALLED = re.compile(rf"(body|condition|calls|to_apply|(?:true|false)_computation)={_NAME}")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Element type and lengths of one array, as one device holds it."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes."""
        width = _BYTES.get(self.dtype)
        if width is None:
            bits = re.search(r"\d+", self.dtype)
            width = int(bits.group()) / 8 if bits else 1
        return float(self.size * width)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: result shapes, operation, operands (names, and the text), what follows them."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def bytes(self) -> float:
        """Of all results."""
        return sum((shape.bytes for shape in self.shapes), 0.0)

    def called(self) -> dict[str, list[str]]:
        """{role: names of computations} that this instruction runs."""
        found: dict[str, list[str]] = collections.defaultdict(list)
        for role, name in _CALLED.findall(self.rest):
            found[role].append(name)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        if branches:
            found["branch"] += re.findall(_NAME, branches.group(1))
        return found


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """({computation: its instructions}, name of the entry)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        head = re.match(rf"(ENTRY )?{_NAME} \(.*->.*\{{$", line)
        if head:
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    return computations, entry


def _instruction(line: str) -> Instruction:
    left, right = line.strip().split(" = ", 1)
    end = _closing(right) + 1 if right.startswith("(") else right.index(" ")
    kind, _, rest = right[end:].strip().partition("(")
    close = _closing("(" + rest) - 1
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        shapes=tuple(_shape(d, n) for d, n in _SHAPE.findall(right[:end])),
        opcode=kind,
        operands=tuple(re.findall(r"%([\w.\-]+)", rest[:close])),
        inside=rest[:close],
        rest=rest[close:],
        root=left.startswith("ROOT "),
    )


def _closing(text: str) -> int:
    """Position of the parenthesis that closes the first one."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return position
    return len(text)


def _shape(dtype: str, dims: str) -> Shape:
    return Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
