"""Names that a file uses are there: what a renaming leaves behind is found without running it.

The linter leaves undefined names alone, because the shape words of jaxtyping are some to it.
"""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("madad_jax", "benchmarks", "configs", "tests")
# Programs of another environment, and one that runs without the package.
APART = ("benchmarks/speed/rivals/", "madad_jax/predict/assets/")


def strings(tree):
    """(first line, first column, last line, last column) of every string of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def undefined(found):
    """`path:line:column: ...` rows of the linter that do not lie inside a string."""
    left, known = [], {}
    for row in found:
        path, line, column, _ = row.split(":", 3)
        if path not in known:
            known[path] = list(strings(ast.parse((ROOT / path).read_text())))
        place = (int(line), int(column) - 1)
        if not any(first <= place < last for first, last in known[path]):
            left.append(row)
    return left


def test_no_name_is_undefined():
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", *FOLDERS]
    done = subprocess.run(
        [*command, "--output-format=concise"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    assert undefined(row for row in done.stdout.splitlines() if "F821" in row) == []


def missing(source, package):
    """`alias.name` of modules of ours that have no such name."""
    tree, modules = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            for alias in node.names:
                try:
                    found = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    continue
                modules[alias.asname or alias.name] = found
    bound = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    return [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules.keys() - bound
        and not hasattr(modules[node.value.id], node.attr)
    ]


@pytest.mark.parametrize("folder", ["madad_jax", "benchmarks"])
def test_what_a_module_takes_from_another_is_there(folder):
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(APART):
            wrong += [f"{name}: {found}" for found in missing(path.read_text(), "madad_jax")]
    assert wrong == []


def test_a_wrong_reference_is_seen():
    source = "from madad_jax.core import errors\nraise errors.UsrError('x')\n"
    assert missing(source, "madad_jax") == ["errors.UsrError"]
    assert undefined(["tests/test_references.py:1:1: F821 in a docstring"]) == []
    assert undefined(["tests/test_references.py:7:1: F821 in code"]) != []
