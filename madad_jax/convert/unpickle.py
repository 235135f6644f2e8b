"""Reads pickles without running them: tensors, containers, numbers, and nothing else.

A pickle is a program for a stack machine. Python's own machine imports what the program names
and calls it; this one does neither. Opcodes are decoded by the standard library's disassembler
(`pickletools.genops`), which only parses, and are carried out here on plain values:

- a name (GLOBAL, STACK_GLOBAL) becomes a `Name`, a pair of strings;
- an object of any class (NEWOBJ, then BUILD) becomes an `Inert` one, a record of what the file
  said of it: this is how a whole pickled `nn.Module` or an `argparse.Namespace` opens;
- a call (REDUCE, OBJ, INST) is looked up in a short table of what tensors and containers are
  rebuilt with; a call of anything else is refused by its name.

Nothing is recursive, so that a deep file cannot overflow the stack; dictionary keys are limited
to values that hash in constant time; no length in the file is believed before it is checked.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from madad_jax.core import errors, messages

# Modules that no weights file has a reason to name. Nothing would be called all the same; a
# file that names them is not what its owner thinks it is.
_FORBIDDEN = """
    _thread bdb cloudpickle code codeop commands ctypes dill http importlib linecache marshal
    multiprocessing nt ntpath os pdb pickle pkgutil posix posixpath pty requests runpy shelve
    shutil smtplib socket ssl subprocess sys threading urllib webbrowser zipimport
"""
FORBIDDEN = frozenset(_FORBIDDEN.split())
# Of Python's own names these are classes; the rest (eval, getattr, ...) is forbidden.
_BUILTIN_CLASSES = """
    bool bytearray bytes complex dict float frozenset int list object range set slice str tuple
"""
BUILTIN_CLASSES = frozenset(_BUILTIN_CLASSES.split())
# Modules had other names under Python 2, whose names protocol 2 keeps.
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core": "numpy.core"}


_MAX_STATES = 16  # pickle gives an object one state


class Name:
    """What a file calls something: `module` and `name`, never imported."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Stands in for an object of a class that is not rebuilt.

    `states` are what BUILD gave it, dicts of attributes; `mapping` and `elements` hold what was
    set on or appended to it.
    """

    __slots__ = ("arguments", "elements", "kind", "mapping", "states")

    def __init__(self, kind: str, *arguments: Any):
        self.kind = kind
        self.arguments = arguments
        self.states: list[dict[Any, Any]] = []
        self.mapping: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def build(self, state: Any) -> None:
        """Keeps a state: a dict of attributes, a pair (dict, slots), or anything else.

        Raises:
            ValueError: one of very many.
        """
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            parts = ({"state": state},)
        if len(self.states) > _MAX_STATES:
            raise ValueError("an object is given its attributes over and over")
        self.states.extend(part for part in parts if part)

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, the last one given; `default` when there is none."""
        for state in reversed(self.states):
            if attribute in state:
                return state[attribute]
        return default


def key(value: Any) -> Any:
    """`value`, when it may be a dictionary key or set element: its hash must be cheap.

    Raises:
        ValueError: for nested containers, whose hash can take for ever.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > 16 or any(
        isinstance(part, tuple | list | dict | set | frozenset | bytearray) for part in parts
    ):
        raise ValueError(f"key of type {type(value).__name__}")
    return value


_MARK = object()
# Far more than a network has parameters, and a fraction of a second to copy.
_MAX_COPIES = 1_000_000
_CONTAINERS = (list, tuple, dict, set, frozenset)
# A tensor takes some fifty. A step of one byte can make an empty list of 56.
_MAX_STEPS = 5_000_000


class Machine:
    """Carries out one pickle.

    Args:
        file: what is being read, for complaints.
        calls: {"module.name": function} of the calls that are granted; each gets the
            arguments of the file, which it must check.
        persistent: rebuilds what the file keeps outside of the pickle (storages).
        max_copies: elements that all granted calls together may copy.
    """

    def __init__(
        self,
        file: str,
        calls: dict[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None = None,
        max_copies: int = _MAX_COPIES,
    ):
        self._file = file
        self._calls = calls
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copies = 0
        self._max_copies = max_copies

    def load(self, stream: Any) -> Any:
        """The value of the pickle that begins at the stream's position; leaves it behind it.

        Raises:
            UserError: not a whole pickle, or one that asks for something not granted.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count > _MAX_STEPS:
                    raise self._damaged(f"a pickle of more than {_MAX_STEPS} steps")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except (ValueError, OverflowError, EOFError, KeyError) as error:
            raise self._damaged(messages.shorten(" ".join(str(error).split()))) from error
        raise self._damaged("it ends early")

    def _damaged(self, reason: str) -> errors.UserError:
        return errors.UserError(f"{self._file}: damaged, or no weights file: {reason}")

    def _refused(self, name: Any) -> errors.UserError:
        return errors.UserError(
            f"{self._file}: refused: the file asks to run {messages.shorten(name)}; files with "
            "weights only need no such thing, and nothing of it was run"
        )

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._damaged("a pickle takes more from its stack than is there")
        return self._stack.pop()

    def _top(self) -> Any:
        self._stack.append(value := self._pop())
        return value

    def _pop_mark(self) -> list[Any]:
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                values = self._stack[i + 1 :]
                del self._stack[i:]
                return values
        raise self._damaged("a pickle lacks a mark")

    def _step(self, name: str, argument: Any) -> None:
        """One opcode."""
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name not in ("PROTO", "FRAME"):
            raise self._damaged(f"opcode {name} is not used by weights files")

    # Containers.

    def _tuple(self, count: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise self._damaged(f"memo {index} was never set")
        self._stack.append(self._memo[index])

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._top()
        if len(pairs) % 2:
            raise self._damaged("a dictionary key without a value")
        if isinstance(target, Inert):
            target = target.mapping
        if not isinstance(target, dict):
            raise self._damaged(f"items set on a {type(target).__name__}")
        target.update({key(k): v for k, v in zip(pairs[::2], pairs[1::2], strict=True)})

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        target = target.elements if isinstance(target, Inert) else target
        if not isinstance(target, list):
            raise self._damaged(f"elements appended to a {type(target).__name__}")
        target.extend(values)

    def _add(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, set):
            raise self._damaged(f"elements added to a {type(target).__name__}")
        target.update(key(v) for v in values)

    def _dict(self, pairs: list[Any]) -> None:
        self._stack.append({})
        self._set_items(pairs)

    # Names and objects.

    def _global(self, module: Any, name: Any) -> Name:
        for part in (module, name):  # also fit to be shown in one line
            if type(part) is not str or not part or not part.isprintable():
                raise self._damaged("a name that is no text")
        for old, new in OLD_MODULES.items():
            if module == old or module.startswith(old + "."):
                module = new + module[len(old) :]
        found = Name(module, name)
        if module == "builtins" and name not in BUILTIN_CLASSES:
            raise self._refused(found)
        if module.split(".")[0] in FORBIDDEN:
            raise self._refused(found)
        return found

    def _call(self, function: Any, arguments: Any) -> None:
        known = self._calls.get(str(function)) if isinstance(function, Name) else None
        if known is None or type(arguments) is not tuple:
            shown = function if isinstance(function, Name) else f"a {type(function).__name__}"
            raise self._refused(shown)
        self._copies += sum(len(a) for a in arguments if isinstance(a, _CONTAINERS))
        if self._copies > self._max_copies:
            raise self._damaged("it copies its containers over and over")
        try:
            self._stack.append(known(*arguments))
        except (TypeError, ValueError, AttributeError) as error:
            raise self._damaged(
                f"{messages.shorten(function)} with {len(arguments)} arguments"
            ) from error

    def _reduce(self) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments)

    def _object(self, count: int) -> None:
        """NEWOBJ (2 operands) and NEWOBJ_EX (3): an object of a class, not initialised."""
        operands = [self._pop() for _ in range(count)][::-1]
        if not isinstance(operands[0], Name):
            raise self._refused(f"a {type(operands[0]).__name__} as a class")
        if str(operands[0]) in self._calls:
            return self._call(operands[0], operands[1])
        self._stack.append(Inert(str(operands[0]), *operands[1:]))

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Inert):
            target.build(state)
        elif isinstance(target, Name | str | bytes | int | float | None | tuple | list):
            raise self._damaged(f"state given to a {type(target).__name__}")
        # Dictionaries and tensors may carry attributes (`_metadata`, hooks): of no use here.

    def _persistent_id(self, pid: Any) -> None:
        if self._persistent is None:
            raise self._damaged("a reference out of the pickle where none is expected")
        self._stack.append(self._persistent(pid))

    def _instance(self, dotted: str) -> None:
        """INST of protocol 0: name in the opcode, arguments after a mark."""
        module, _, name = dotted.partition(" ")
        self._call(self._global(module, name), tuple(self._pop_mark()))

    def _old_object(self) -> None:
        """OBJ of protocol 1: class and arguments after a mark."""
        operands = self._pop_mark()
        if not operands:
            raise self._damaged("an object without a class")
        self._call(operands[0], tuple(operands[1:]))

    def _stack_global(self) -> None:
        name = self._pop()
        self._stack.append(self._global(self._pop(), name))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUE_OPCODES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_VALUES = frozenset(_VALUE_OPCODES.split())
_Handler = Callable[[Machine, Any], Any]
_HANDLERS: dict[str, _Handler] = {
    "MARK": lambda m, _: m._stack.append(_MARK),
    "POP": lambda m, _: m._stack.pop() if m._stack else m._pop(),
    "POP_MARK": lambda m, _: m._pop_mark(),
    "DUP": lambda m, _: m._stack.append(m._top()),
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "EMPTY_TUPLE": lambda m, _: m._stack.append(()),
    "EMPTY_SET": lambda m, _: m._stack.append(set()),
    "LIST": lambda m, _: m._stack.append(m._pop_mark()),
    "TUPLE": lambda m, _: m._stack.append(tuple(m._pop_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "DICT": lambda m, _: m._dict(m._pop_mark()),
    "FROZENSET": lambda m, _: m._stack.append(frozenset(key(v) for v in m._pop_mark())),
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._pop_mark()),
    "SETITEM": lambda m, _: m._set_items([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set_items(m._pop_mark()),
    "ADDITEMS": lambda m, _: m._add(m._pop_mark()),
    "PUT": lambda m, index: m._put(index),
    "BINPUT": lambda m, index: m._put(index),
    "LONG_BINPUT": lambda m, index: m._put(index),
    "MEMOIZE": lambda m, _: m._put(len(m._memo)),
    "GET": lambda m, index: m._get(index),
    "BINGET": lambda m, index: m._get(index),
    "LONG_BINGET": lambda m, index: m._get(index),
    "GLOBAL": lambda m, dotted: m._stack.append(m._global(*dotted.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m._stack_global(),
    "REDUCE": lambda m, _: m._reduce(),
    "NEWOBJ": lambda m, _: m._object(2),
    "NEWOBJ_EX": lambda m, _: m._object(3),
    "OBJ": lambda m, _: m._old_object(),
    "INST": lambda m, dotted: m._instance(dotted),
    "BUILD": lambda m, _: m._build(),
    "PERSID": lambda m, pid: m._persistent_id(pid),
    "BINPERSID": lambda m, _: m._persistent_id(m._pop()),
}
