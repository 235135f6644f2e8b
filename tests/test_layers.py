"""Who may import whom, read from the source with `ast`, and how large a file may grow.

`ROOMS` is the whole rule: a room imports itself and the rooms named beside it. Rooms stand in the
order of their floors, so every name on the right stands further up on the left.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = {
    "core": "",
    "runtime": "core",
    "devices": "core",
    "checkpoints": "core",
    "scans": "core",
    "metrics": "core",
    "diffusion": "core",
    "synthesis": "core",
    "anomaly_maps": "core",
    "models": "core",
    "methods": "core diffusion synthesis anomaly_maps models",
    "data": "core scans",
    "prepare": "core scans data",
    "training": "core runtime devices checkpoints methods",
    "evaluation": "core runtime devices scans metrics methods data",
    "convert": "core checkpoints models training",
    "assembly": (
        "core devices metrics diffusion synthesis anomaly_maps models methods data training "
        "evaluation convert"
    ),
    "experiment": (
        "core runtime devices checkpoints metrics synthesis anomaly_maps models methods data "
        "training evaluation assembly"
    ),
    "predict": (
        "core runtime devices checkpoints scans metrics models data evaluation assembly convert "
        "experiment"
    ),
    "bids": "core runtime scans data predict",
    "main": (
        "core runtime devices data prepare evaluation assembly convert experiment predict bids"
    ),
}
ALLOWED = {room: {room, *names.split()} for room, names in ROOMS.items()}
NEVER = {"torch", "torchvision", "tensorflow", "keras"}
METRICS = {"numpy", "scipy", "sklearn", "jaxtyping", "madad_jax"}
READS_CONFIG = ("assembly", "experiment", "predict", "main")  # they may name the type
NO_JAX = ("scans", "metrics", "data", "prepare")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def imports(source, package=""):
    """Dotted names of everything imported, at any depth of the code; relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def tree():
    """{dotted module: its source} of the package."""
    sources = {}
    for path in sorted((ROOT / "madad_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text()
    return sources


def room(module):
    """The room of a module; files in the package's root belong to `main`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "main"


def graph(sources):
    """{module: modules of the package that it imports}; names inside modules are cut off."""
    edges = {}
    for module, source in sources.items():
        edges[module] = set()
        for name in imports(source, module.rpartition(".")[0]):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            if name not in ("", "madad_jax", module):
                edges[module].add(name)
    return edges


def wrong_arrows(edges):
    """Imports of rooms that a room must not know; a method knows no other method, but for variants
    on several pictures of a slice (`methods/stacked`)."""
    wrong = []
    for module, targets in edges.items():
        for target in targets:
            allowed = room(target) in ALLOWED[room(module)]
            if room(module) == "methods" == room(target):
                allowed = ".stacked." in module or target.rpartition(".")[2] in (
                    "base",
                    "families",
                    "pixel_mask",
                    "shared",
                    "methods",
                )
            if not allowed:
                wrong.append(f"{module} -> {target}")
    return sorted(wrong)


def cycle(edges):
    """A list of modules that import each other in a circle, or []."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        found = next((c for t in sorted(edges.get(module, ())) if (c := visit(t))), [])
        path.pop()
        done.add(module)
        return found

    return next((c for m in sorted(edges) if (c := visit(m))), [])


def foreign(sources):
    """Packages imported in rooms that must not know them."""
    wrong = []
    for module, source in sources.items():
        here = room(module)
        for name in imports(source, module.rpartition(".")[0]):
            package = name.split(".")[0]
            if (
                package in (*NEVER, "configs", "tests", "benchmarks")
                or (package == "flax" and here != "models")
                or (package in ("jax", "jaxlib", "optax") and here in NO_JAX)
                or (package == "ml_collections" and here not in READS_CONFIG)
            ):
                wrong.append(f"{module} -> {name}")
    return sorted(wrong)


def test_every_room_stands_on_rooms_above_it_in_the_table():
    seen = set()
    for name, below in ROOMS.items():
        assert set(below.split()) <= seen, name
        seen.add(name)


def test_every_module_has_a_room():
    found = {module for module in tree() if room(module) == "main"}
    assert found == {"madad_jax", "madad_jax.__main__", "madad_jax.main"}


def test_imports_run_down():
    assert wrong_arrows(graph(tree())) == []


def test_no_cycles():
    assert cycle(graph(tree())) == []


def test_foreign_packages_stay_in_their_rooms():
    assert foreign(tree()) == []


def test_metrics_are_numpy():
    standard = set(__import__("sys").stdlib_module_names)
    for module, source in tree().items():
        if room(module) == "metrics":
            packages = {name.split(".")[0] for name in imports(source)} - standard
            assert packages <= METRICS, module


def test_no_jax_through_what_rooms_without_it_import():
    """Worker processes import these modules: nothing below them may know jax."""
    edges, sources = graph(tree()), tree()
    for start in (m for m in sources if room(m) in NO_JAX):
        reached, queue = set(), [start]
        while queue:
            module = queue.pop()
            if module not in reached:
                reached.add(module)
                queue += edges[module]
        for module in reached:
            packages = {name.split(".")[0] for name in imports(sources[module])}
            assert not packages & {"jax", "flax", "optax"}, f"{start} loads {module}"


def test_rivals_know_nothing_of_the_package():
    """Programs of another environment, started and never imported."""
    for path in (ROOT / "benchmarks" / "speed" / "rivals").rglob("*.py"):
        packages = {name.split(".")[0] for name in imports(path.read_text())}
        assert not packages & {"madad_jax", "jax", "flax"}, path.name


def test_configs_know_ml_collections_alone():
    for path in (ROOT / "configs").rglob("*.py"):
        packages = {name.split(".")[0] for name in imports(path.read_text())}
        assert packages <= {"configs", "ml_collections"}, path.name


def test_sizes_and_names():
    for folder in ("madad_jax", "configs", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= LONGEST_FILE, f"{path.name}: too long"
            assert path.name != "utils.py", f"{path}: name what it does"
            if path.name == "__init__.py" and path.parent != ROOT / "madad_jax":
                assert text == "", f"{path} must be empty"


def test_functions_are_short():
    long = []
    for module, source in tree().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                doc = node.body[0]
                if ast.get_docstring(node):
                    lines -= doc.end_lineno - doc.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{module}.{node.name}: {lines}")
    assert long == []


BASE = {
    "madad_jax": "",
    "madad_jax.core": "",
    "madad_jax.core.errors": "",
    "madad_jax.training": "",
    "madad_jax.training.optimizer": "from madad_jax.core import errors",
    "madad_jax.data": "",
    "madad_jax.data.sources.record": "import numpy",
    "madad_jax.models": "",
    "madad_jax.models.networks.dit": "import flax.linen as nn",
    "madad_jax.methods": "",
    "madad_jax.methods.base": "",
    "madad_jax.methods.madad": "import madad_jax.methods.base\nimport madad_jax.models.dit",
    "madad_jax.training.loop": "from madad_jax.methods import madad",
}


def test_the_rules_accept_a_good_tree():
    assert wrong_arrows(graph(BASE)) == [] == foreign(BASE) == cycle(graph(BASE))


@pytest.mark.parametrize(
    ("module", "source", "check"),
    [
        ("core.errors", "from madad_jax.training import optimizer", wrong_arrows),
        ("models.dit", "from madad_jax.methods import base", wrong_arrows),
        ("models.dit", "from ..methods import base", wrong_arrows),
        ("models.dit", "from madad_jax.data import record", wrong_arrows),
        ("data.record", "def f():\n    import madad_jax.training.loop", wrong_arrows),
        ("methods.dae", "from madad_jax.methods import madad", wrong_arrows),
        ("methods.dae", "from madad_jax.data import record", wrong_arrows),
        ("training.loop", "import torch", foreign),
        ("training.loop", "def f():\n    from tensorflow import keras", foreign),
        ("training.loop", "from flax import linen", foreign),
        ("training.loop", "from benchmarks import speed", foreign),
        ("data.record", "import jax.numpy as jnp", foreign),
        ("methods.base", "from configs import default", foreign),
        ("training.loop", "import ml_collections", foreign),
        ("core.errors", "from madad_jax.training import loop", cycle),
    ],
)
def test_the_rules_see_a_bad_tree(module, source, check):
    sources = BASE | {f"madad_jax.{module}": source}
    if check is cycle:
        sources["madad_jax.training.loop"] = "from madad_jax.core import errors"
    assert check(sources if check is foreign else graph(sources))
