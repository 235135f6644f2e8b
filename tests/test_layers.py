"""Who may import whom, read from the source with `ast`, and how large a file may grow.

0  typing rng errors files command_line version hlo_text hlo flops topology processes huge_pages
1  diffusion/ models/ evaluation/ data/ optim sharding checkpoint metric_writer ...
2  methods/
3  train_state train_step visualize runtime
4  train build run checks evaluate calibrate report stages compile_only restore convert/
   prediction/ benchmark/
5  main predict
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = (
    {
        *("typing", "rng", "errors", "files", "command_line", "version"),
        *("hlo_text", "hlo", "flops", "topology", "processes", "huge_pages"),
    },
    {
        *("diffusion", "models", "evaluation", "data", "optim", "sharding", "checkpoint"),
        *("checkpoint_reader", "digests", "metric_writer", "process_log"),
    },
    {"methods"},
    {"train_state", "train_step", "visualize", "runtime"},
    {
        *(
            "train",
            "build",
            "build_methods",
            "build_networks",
            "run",
            "evaluate",
            "calibrate",
            "report",
            "stages",
            "compile_only",
        ),
        *("scoring", "panels", "result_files", "table_run"),
        *("checks", "latent_cache", "preset", "convert", "extract_brain", "prediction", "restore"),
        "benchmark",
    },
    {"main", "predict", "compare"},
)
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
# Below layer 3 a room knows nothing of its neighbours, but for the parts of one thing.
NEIGHBOURS = {
    ("files", "errors"),
    ("command_line", "errors"),
    ("topology", "errors"),
    ("topology", "hlo"),
    ("hlo", "hlo_text"),
    ("checkpoint", "checkpoint_reader"),
    ("checkpoint", "digests"),
    ("checkpoint_reader", "digests"),
    ("sharding", "digests"),
}
NEVER = {"torch", "torchvision", "tensorflow", "keras"}
# Programs of another environment, started and never imported; they know nothing of the package.
RIVALS = "madad_jax.benchmark.rivals."
EVALUATION = {"numpy", "scipy", "sklearn", "jaxtyping", "madad_jax"}
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
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


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
    """Imports that run up, or sideways between rooms that must not know each other."""
    wrong = []
    for module, targets in edges.items():
        for target in targets:
            here, there = room(module), room(target)
            if here == there and here != "methods":
                continue
            if here == "methods" == there:
                allowed = target.endswith(".base")
            elif LAYER[here] == LAYER[there]:
                allowed = LAYER[here] >= 3 or (here, there) in NEIGHBOURS
            else:
                allowed = LAYER[there] < LAYER[here]
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
                (package in NEVER and not module.startswith(RIVALS))
                or (package == "flax" and here != "models")
                or (package in ("jax", "jaxlib", "optax") and here in ("data", "evaluation"))
                or (
                    package == "configs"
                    or (package == "ml_collections" and here not in ("main", "predict"))
                )
                or (package == "tests")
            ):
                wrong.append(f"{module} -> {name}")
    return sorted(wrong)


def test_every_module_has_a_layer():
    rooms = {room(module) for module in tree() if module != "madad_jax"}
    assert rooms <= set(LAYER), f"not in LAYERS: {sorted(rooms - set(LAYER))}"


def test_imports_run_down():
    assert wrong_arrows(graph(tree())) == []


def test_no_cycles():
    assert cycle(graph(tree())) == []


def test_foreign_packages_stay_in_their_rooms():
    assert foreign(tree()) == []


def test_rivals_and_the_package_know_nothing_of_each_other():
    for module, source in tree().items():
        names = imports(source, module.rpartition(".")[0])
        if module.startswith(RIVALS):
            assert not {n for n in names if n.split(".")[0] in ("madad_jax", "jax", "flax")}
        assert not {n for n in names if n.startswith(RIVALS.rstrip("."))}, module


def test_evaluation_is_numpy():
    standard = set(__import__("sys").stdlib_module_names)
    for module, source in tree().items():
        if room(module) == "evaluation":
            packages = {name.split(".")[0] for name in imports(source)} - standard
            assert packages <= EVALUATION, module


def test_data_and_evaluation_do_not_load_jax_through_what_they_import():
    """Grain's worker processes import these modules: nothing below them may know jax."""
    edges, sources = graph(tree()), tree()
    for start in (m for m in sources if room(m) in ("data", "evaluation")):
        reached, queue = set(), [start]
        while queue:
            module = queue.pop()
            if module not in reached:
                reached.add(module)
                queue += edges[module]
        for module in reached:
            packages = {name.split(".")[0] for name in imports(sources[module])}
            assert not packages & {"jax", "flax", "optax"}, f"{start} loads {module}"


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
            if path.name == "__init__.py":
                assert text == "", f"{path} must be empty"


def test_functions_are_short():
    long = []
    for module, source in tree().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and module != "madad_jax.stages":
                lines = node.end_lineno - node.lineno + 1
                doc = node.body[0]
                if ast.get_docstring(node):
                    lines -= doc.end_lineno - doc.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{module}.{node.name}: {lines}")
    assert long == []


BASE = {
    "madad_jax": "",
    "madad_jax.errors": "",
    "madad_jax.optim": "from madad_jax import errors",
    "madad_jax.data": "",
    "madad_jax.data.record": "import numpy",
    "madad_jax.models": "",
    "madad_jax.models.dit": "import flax.linen as nn",
    "madad_jax.methods": "",
    "madad_jax.methods.base": "",
    "madad_jax.methods.madad": "import madad_jax.methods.base\nimport madad_jax.models.dit",
    "madad_jax.train": "from madad_jax.methods import madad",
}


def test_the_rules_accept_a_good_tree():
    assert wrong_arrows(graph(BASE)) == [] == foreign(BASE) == cycle(graph(BASE))


@pytest.mark.parametrize(
    ("module", "source", "check"),
    [
        ("errors", "from madad_jax import optim", wrong_arrows),
        ("models.dit", "from madad_jax.methods import base", wrong_arrows),
        ("models.dit", "from ..methods import base", wrong_arrows),
        ("models.dit", "from madad_jax.data import record", wrong_arrows),
        ("optim", "def f():\n    import madad_jax.train", wrong_arrows),
        ("methods.dae", "from madad_jax.methods import madad", wrong_arrows),
        ("methods.dae", "from madad_jax.data import record", None),
        ("train", "import torch", foreign),
        ("train", "def f():\n    from tensorflow import keras", foreign),
        ("optim", "from flax import linen", foreign),
        ("data.record", "import jax.numpy as jnp", foreign),
        ("methods.base", "from configs import default", foreign),
        ("build", "import ml_collections", foreign),
        ("errors", "from madad_jax import train", cycle),
    ],
)
def test_the_rules_see_a_bad_tree(module, source, check):
    sources = BASE | {f"madad_jax.{module}": source}
    if module == "errors" and check is cycle:
        sources["madad_jax.train"] = "from madad_jax import errors"
    found = (
        method_imports(sources)
        if check is None
        else check(graph(sources) if check in (wrong_arrows, cycle) else sources)
    )
    assert found


def method_imports(sources):
    """Methods know networks and diffusion, not where batches or settings come from."""
    allowed = {"models", "diffusion", "methods", *LAYERS[0]}
    return [
        f"{module} -> {target}"
        for module, targets in graph(sources).items()
        for target in targets
        if room(module) == "methods" and room(target) not in allowed
    ]


def test_methods_know_neither_data_nor_config():
    assert method_imports(tree()) == []
