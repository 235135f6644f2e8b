"""One part in a process of its own: `python -m benchmarks.gpu.part NAME --out=DIR`."""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import logging
import os
import pathlib
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

# Read slices, scans and caches, which the measured programs do not; whoever uses one fails there.
_READERS = ("cv2", "nibabel", "pydicom", "array_record", "grain")
_AT_IMPORT = ("cv2.setNumThreads",)  # called by modules that the parts import and do not use


class Recorder:
    """Takes rows and writes each at once, so that a part that is killed keeps what it has."""

    def __init__(self, part: str, out: pathlib.Path, seconds: float, dry: bool):
        self.part, self.out, self.dry = part, out, dry
        self._end = time.monotonic() + seconds
        self._path = out / f"rows-{part}.jsonl"
        self._path.write_text("")

    def left(self) -> float:
        """Seconds until this part is stopped."""
        return self._end - time.monotonic()

    def add(self, name: str, figures: dict[str, Any], note: str = "", **data: Any) -> None:
        """A row: `figures` for the table, `data` for the JSON alone."""
        row = {"part": self.part, "name": name, "figures": figures, "note": note, **data}
        with self._path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")

    def attempt(self, name: str, needs: float, measure: Callable[[], None]) -> None:
        """One measurement, unless too little time is left; its failure is a row like any other."""
        if self.left() < needs and not self.dry:
            self.add(name, {}, f"left out: {self.left():.0f} s were left")
            return
        try:
            measure()
        except Exception as error:
            traceback.print_exc()
            words = " ".join(str(error).split())[:200].replace("|", "/")
            self.add(name, {}, f"failed: {type(error).__name__}: {words}")


def stand_in_for_readers() -> list[str]:
    """Empty modules for what is not installed; returns their names."""
    missing = [name for name in _READERS if importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.append(_Finder(missing))
    return missing


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages that are not there, and any module inside them."""

    def __init__(self, names: list[str]):
        self._names = names

    def find_spec(self, name: str, *unused: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Missing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: the module is empty."""


class _Missing(types.ModuleType):
    """Imported like a module; a function or class of it is refused when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        what = f"{self.__name__}.{name}"
        return (lambda *unused: None) if what in _AT_IMPORT else _refused(what)


class _Refusal(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _refused(f"{cls.__qualname__}.{name}")


def _refused(what: str) -> type:
    def refuse(*unused: Any, **named: Any) -> None:
        raise ImportError(f"{what} is not installed here (benchmarks/gpu/wheels.sh)")

    # An exception's class: readers' names stand in annotations, after `class` and `except`.
    return _Refusal("Missing", (Exception,), {"__new__": refuse, "__qualname__": what})


def main() -> None:
    """Runs the part that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if site := os.environ.get("GPU_BENCH_SITE"):
        sys.path.append(site)
    recorder = Recorder(options.part, options.out, options.seconds, options.dry)
    if missing := stand_in_for_readers():
        print("not installed:", *missing)
    try:
        importlib.import_module(f"benchmarks.gpu.{options.part}").measure(recorder)
    except Exception as error:
        traceback.print_exc()
        recorder.add("the whole part", {}, f"failed: {type(error).__name__}: {str(error)[:200]}")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
