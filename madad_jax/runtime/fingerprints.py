"""What a traced function holds, as text: its code, its closure, the options of its object.

A program that is kept whole is found again without tracing. All that the trace would have read
stands in its key. A config does not say it all (a schedule holds the length of the data), and a
wrong hit would compute something else without a word. So the Python objects themselves are walked.
What the walk does not know has no fingerprint, and its program is compiled anew.
"""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

# Their sources are known by a digest (this package) or by a version (all others).
_KNOWN = ("madad_jax", "jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes", "builtins")
_KNOWN += ("functools", "math", "operator", "types", "typing", "collections", "enum")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
# Of a bound flax module, and not of its program.
_NOT_OPTIONS = ("parent", "scope")


class Unknown(Exception):
    """An object whose part in a program cannot be read off it; the message names its type."""


def fingerprint(*values: Any) -> str:
    """sha256 of everything that the values hold: functions, dataclasses, arrays, containers.

    Raises:
      Unknown: something in them is of another kind, or comes from a package of unknown version.
    """
    digest = hashlib.sha256()
    walk = _Walk(digest)
    for value in values:
        walk.visit(value)
    return digest.hexdigest()


class _Walk:
    """One walk; an object that was met before is named by its number."""

    def __init__(self, digest: Any):
        self._digest = digest
        # The objects are kept: a number must not go to another object while the walk lasts.
        self._met: dict[int, tuple[int, Any]] = {}

    def visit(self, value: Any) -> None:
        """Adds a value and what it holds."""
        if isinstance(value, _PLAIN):
            self._add(type(value).__name__, repr(value))
        elif isinstance(value, type):
            self._add("type", _place(value), repr(value))
        elif id(value) in self._met:
            self._add("again", str(self._met[id(value)][0]))
        else:
            self._met[id(value)] = (len(self._met), value)
            self._visit_new(value)

    def _add(self, *words: str) -> None:
        for word in words:
            # The length first: no two lists of words make the same bytes.
            content = word.encode(errors="backslashreplace")
            self._digest.update(b"%d:" % len(content) + content)

    def _visit_new(self, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            self._visit_array(value)
        elif isinstance(value, np.dtype | enum.Enum | types.EllipsisType):
            self._add("constant", _place(type(value)), repr(value))
        elif isinstance(value, Mapping):
            self._add("mapping", _place(type(value)), str(len(value)))
            self._visit_all(part for item in value.items() for part in item)
        elif isinstance(value, tuple | list):
            self._add("sequence", _place(type(value)), str(len(value)))
            self._visit_all(value)
        elif isinstance(value, set | frozenset):
            self._add("set", str(len(value)), *sorted(map(repr, value)))
        elif isinstance(value, slice):
            self._add("slice", repr(value))
        else:
            self._visit_object(value)

    def _visit_all(self, values: Any) -> None:
        for value in values:
            self.visit(value)

    def _visit_object(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self._add("partial")
            self._visit_all((value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self._add("method")
            self._visit_all((value.__func__, value.__self__))
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self._add("builtin", str(getattr(value, "__module__", "")), value.__name__)
        elif dataclasses.is_dataclass(value):
            self._add("dataclass", _place(type(value)))
            for field in dataclasses.fields(value):
                if field.name not in _NOT_OPTIONS:
                    self._add(field.name)
                    self.visit(getattr(value, field.name, None))
        elif hasattr(value, "__wrapped__") and callable(value):
            # A jitted function: the arguments of `jit` stand in the source that made it.
            self._add("wrapped", _place(type(value)))
            self.visit(value.__wrapped__)
        elif hasattr(value, "__array__") and hasattr(value, "dtype"):
            self._visit_device_array(value)
        else:
            raise Unknown(f"{type(value).__module__}.{type(value).__qualname__}")

    def _visit_array(self, value: Any) -> None:
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise Unknown("an array of objects")
        self._add("array", _place(type(value)), str(array.dtype), str(np.shape(value)))
        self._digest.update(array.tobytes())

    def _visit_device_array(self, value: Any) -> None:
        # Another process may hold a part of it, and random keys have no numpy form.
        try:
            array = np.asarray(value)
        except (RuntimeError, TypeError) as error:
            raise Unknown(str(error)) from error
        self._add("device array")
        self._visit_array(array)

    def _visit_function(self, value: Any) -> None:
        self._add("function", _place(value), value.__qualname__)
        self._visit_code(value.__code__)
        self._visit_all((value.__defaults__, value.__kwdefaults__))
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self._add(name)
            try:
                self.visit(cell.cell_contents)
            except ValueError:  # An empty cell.
                self._add("empty")

    def _visit_code(self, code: types.CodeType) -> None:
        self._add("code", code.co_code.hex(), *code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._visit_code(constant)
            elif isinstance(constant, frozenset):
                # Python salts the order of strings in every process.
                self._add("frozenset", *sorted(map(repr, constant)))
            else:
                self._add(repr(constant))


def _place(value: Any) -> str:
    """Module and name of a function or a class.

    Raises:
      Unknown: its package has neither digest nor version in the key of a program.
    """
    module = getattr(value, "__module__", None) or "builtins"
    if module.split(".")[0] not in _KNOWN:
        raise Unknown(f"{module}.{getattr(value, '__qualname__', value)}")
    return f"{module}.{getattr(value, '__qualname__', '')}"
