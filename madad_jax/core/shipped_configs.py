"""Experiments of `configs/`, found by path or by name, in a checkout and in an installed package.

A wheel carries them as `madad_jax.configs`; a checkout has them beside the package.
"""

import difflib
import importlib
import importlib.util
import pathlib
import sys
from typing import Any

from madad_jax.core import errors

_PACKAGE = pathlib.Path(__file__).parents[1]


def folder() -> pathlib.Path:
    """Where the experiments lie."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def locate(argument: str) -> str:
    """`FILE[:ARGUMENT]` of `--config=`, with FILE where it is.

    A file that exists is taken as it stands. Else `configs/brats.py` and `brats` name an
    experiment that comes with the package. What is neither stays as it was, for the error that
    names it.
    """
    name, colon, rest = argument.partition(":")
    if pathlib.Path(name).exists():
        return argument
    stem = name.removeprefix("configs/").removesuffix(".py")
    file = folder() / f"{stem}.py"
    return f"{file}{colon}{rest}" if file.is_file() else argument


def names() -> list[str]:
    """Experiments of the package, as `--config=` takes them: `demo`, `baselines/ae`."""
    files = (file.relative_to(folder()) for file in folder().rglob("*.py"))
    return sorted(str(f.with_suffix("")) for f in files if f.name != "__init__.py")


def require(argument: str) -> None:
    """Looks whether the file of a located `FILE[:ARGUMENT]` is there.

    Raises:
      UserError: it is not; names what was asked for, and what is accepted.
    """
    name = argument.partition(":")[0]
    if not pathlib.Path(name).is_file():
        found = "a folder" if pathlib.Path(name).is_dir() else "no such file or name"
        near = difflib.get_close_matches(name.removesuffix(".py"), names(), 3, 0.5)
        raise errors.UserError(
            f"--config={argument}: {found}; accepted: a file, as ours.py, or a name of "
            f"the package, as {', '.join(near or ['demo', 'slices_cpu', 'brats:FLAIR'])}"
        )


def make_importable() -> None:
    """Lets experiments import `configs`, as they do in a checkout, where no such package is."""
    try:
        found = importlib.util.find_spec("configs.default")
    except ModuleNotFoundError:
        found = None
    if found is None and (_PACKAGE / "configs").is_dir():
        sys.modules["configs"] = importlib.import_module("madad_jax.configs")


def load(path: str) -> Any:
    """The config that `get_config()` of a file returns; runs the file, as `--config=` does."""
    make_importable()
    spec = importlib.util.spec_from_file_location("_experiment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
