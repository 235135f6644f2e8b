"""The face of the package: verbs, `import madad_jax`, experiments found by name, the wheel."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import madad_jax
from madad_jax import __main__ as entry
from madad_jax.core import errors, shipped_configs, version
from madad_jax.predict import example, model_names, package_files

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
POSITIONAL = ("bids",)  # verbs with words that are no flags, as every BIDS app has them
MOST_SHIPPED_BYTES = 16 * 10**6  # of a model inside the wheel
OLDEST_SETUPTOOLS = 77  # of pyproject.toml: it reads the licence as an SPDX expression


def run(*arguments, cwd=ROOT, path=ROOT):
    """(status, standard output, standard error) of a Python that sees the package at `path`."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", entry.VERBS)
def test_every_verb_has_a_command(name):
    assert callable(importlib.import_module(entry.VERBS[name].module).main)


def test_help_lists_the_verbs(monkeypatch, capsys):
    for argv in ([], ["--help"], ["help"]):
        monkeypatch.setattr(sys, "argv", ["madad-jax", *argv])
        assert entry.main() == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines if line.startswith("  ")]
        assert listed == list(entry.VERBS)


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["madad-jax", "--version"])
    assert entry.main() == 0
    assert capsys.readouterr().out == f"madad_jax {version.VERSION}\n"
    assert madad_jax.__version__ == version.VERSION


@pytest.mark.parametrize(
    ("word", "text"), [("pepare", "did you mean 'prepare'?"), ("x", "accepted: demo, plan, run, ")]
)
def test_a_mistyped_verb_is_one_line_and_status_2(monkeypatch, capsys, word, text):
    monkeypatch.setattr(sys, "argv", ["madad-jax", word])
    assert entry.main() == 2
    error = capsys.readouterr().err
    assert text in error and repr(word) in error and error.count("\n") == 1


# One verb of each module: the others differ in a flag that stands for them.
@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        ("demo", "--example_only"),
        ("run", "Folder of the run; default"),
        ("predict", "--checkpoint"),
        ("bids", "--participant-label"),
        ("prepare", "--cohort"),
        ("check", "--locate"),
        ("pack", "--format"),
        ("convert", "--out"),
        ("compare", "--run"),
        ("compare-visits", "--healthy_pairs"),
        ("draw-lesions", "--appearance"),
        ("extract-brain", "--serve"),
        ("package", "--card"),
        ("models", "traceback"),
        ("plan", "--minutes"),
    ],
)
def test_help_of_a_verb_lists_its_flags(verb, flag):
    status, out, error = run("-m", "madad_jax", verb, "--help")
    assert status == 0, error
    assert flag in out and entry.__doc__.splitlines()[0] not in out


@pytest.mark.parametrize("name", entry.VERBS)
def test_a_verb_has_two_examples_of_flags_that_there_are(name):
    """Read out of the modules' sources: starting each verb once more would take a minute."""
    verb = entry.VERBS[name]
    assert len(verb.examples) == len(set(verb.examples)) == 2
    source = pathlib.Path(importlib.import_module(verb.module).__file__).read_text()
    for word in " ".join(verb.examples).split():
        flag = word.removeprefix("--").removeprefix("no").partition("=")[0].partition(".")[0]
        assert flag in source and (word.startswith("--") or name in POSITIONAL), word
    assert entry.verb_text(name).count(f"madad-jax {name}") == 3


HELP_IMPORTS = ("jax", "numpy", "scipy", "nibabel", "flax", "sklearn", "matplotlib")


def test_help_of_a_verb_loads_nothing_heavy():
    """What takes the seconds; none of it is needed to list flags."""
    # One verb a module: its flags can be defined once in a process.
    names = {verb.module: name for name, verb in entry.VERBS.items()}.values()
    code = f"""
import contextlib, io, sys
from madad_jax import __main__ as entry
for name in {list(names)!r}:
    sys.argv = ["madad-jax", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        entry.main()
    print(name, *sorted(set({HELP_IMPORTS!r}) & set(sys.modules)), len(out.getvalue()) > 300)
"""
    status, out, error = run("-c", code)
    assert status == 0, error
    assert out.splitlines() == [f"{name} True" for name in names]


def test_completion_is_a_line_for_a_shell(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["madad-jax", "--completion"])
    assert entry.main() == 0
    line = capsys.readouterr().out
    done = subprocess.run(
        ["bash", "-c", f"{line}complete -p madad-jax"], capture_output=True, text=True, check=True
    )
    assert "demo plan run train" in done.stdout


def test_all_modules_of_verbs_are_asked_for_help():
    mark = test_help_of_a_verb_lists_its_flags.pytestmark[0]
    asked = {entry.VERBS[verb].module for verb, _ in mark.args[1]}
    assert asked == {verb.module for verb in entry.VERBS.values()}


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, madad_jax; "
        "print(madad_jax.__version__, *{'jax', 'flax', 'numpy', 'nibabel', 'scipy', 'absl'} "
        "& set(sys.modules)); print(callable(madad_jax.load), 'madad_jax.predict.api' in "
        "sys.modules, issubclass(madad_jax.UserError, Exception))"
    )
    status, out, error = run("-c", code)
    assert status == 0, error
    assert out.splitlines() == [version.VERSION, "True True True"]


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        madad_jax.lod  # noqa: B018


@pytest.mark.parametrize(
    ("argument", "file"),
    [
        ("demo", "demo.py"),
        ("configs/demo.py", "demo.py"),
        ("brats:T2,official", "brats.py:T2,official"),
        ("paper/table2", "paper/table2.py"),
        ("baselines/thor.py:brats:T2", "baselines/thor.py:brats:T2"),
    ],
)
def test_experiments_are_found_by_name(monkeypatch, tmp_path, argument, file):
    monkeypatch.chdir(tmp_path)
    assert shipped_configs.locate(argument) == str(shipped_configs.folder() / file)


def test_a_file_that_exists_is_taken_as_it_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("")
    assert shipped_configs.locate("configs/demo.py") == "configs/demo.py"
    assert shipped_configs.locate("nope:x") == "nope:x", "stays, for the error that names it"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("ours.py", "--config=ours.py: no such file or name; accepted: a file"),
        ("slice_cpu", "as slices_cpu"),
        (".:x", "--config=.:x: a folder"),
    ],
)
def test_an_experiment_that_is_not_there_is_named_with_what_is_near(argument, said):
    with pytest.raises(errors.UserError) as caught:
        shipped_configs.require(shipped_configs.locate(argument))
    assert said in str(caught.value)


def test_every_name_that_is_offered_is_found():
    for name in shipped_configs.names():
        shipped_configs.require(shipped_configs.locate(name))
    assert {"demo", "slices_cpu", "baselines/drawn_unet"} <= set(shipped_configs.names())


def test_an_installed_package_lends_its_configs(monkeypatch, tmp_path):
    """As in a wheel: `configs` inside the package and nowhere else."""
    inside = tmp_path / "madad_jax"
    (inside / "configs").mkdir(parents=True)
    monkeypatch.setattr(shipped_configs, "_PACKAGE", inside)
    monkeypatch.setattr(shipped_configs.importlib.util, "find_spec", lambda name: None)
    lent = sys.modules["madad_jax.configs"] = type(sys)("madad_jax.configs")
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    try:
        shipped_configs.make_importable()
        assert sys.modules.pop("configs") is lent
    finally:
        del sys.modules["madad_jax.configs"]


def packages_of(folder, name):
    """Dotted names of the packages under a folder that is package `name`."""
    found = {path.parent.relative_to(folder).parts for path in folder.rglob("__init__.py")}
    return {".".join((name, *parts)) for parts in found}


def test_the_list_of_packages_is_the_tree():
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert len(set(listed)) == len(listed)
    tree = packages_of(ROOT / "madad_jax", "madad_jax")
    tree |= packages_of(ROOT / "configs", "madad_jax.configs")
    assert set(listed) == tree
    for folder in ("madad_jax", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.parent == ROOT / "madad_jax" / "predict" / "assets"  # a file of data
            assert inside or (path.parent / "__init__.py").exists(), path


def test_shipped_models_are_small_and_their_licences_are_the_wheels():
    """What `madad-jax models` lists has its licence in the wheel's metadata."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["madad_jax.predict"]
    assert "shipped/*/*" in patterns
    spoken = PYPROJECT["project"]["license"].replace("(", " ").replace(")", " ").split()
    for name, folder in model_names.shipped().items():
        about = package_files.read_about(folder)
        assert about.name == name
        assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_SHIPPED_BYTES
        for file in package_files.FILES:
            package_files.read_file(folder, file, about)
        assert about.licence in spoken, f"pyproject.toml: license: {name} is {about.licence}"
        licence = str((folder / "LICENSE").relative_to(ROOT))
        assert licence in PYPROJECT["project"]["license-files"]


def test_the_example_scan_is_packed_and_its_licence_is_the_wheels():
    assert "example_scan/*" in PYPROJECT["tool"]["setuptools"]["package-data"]["madad_jax.predict"]
    assert "CC-BY-SA-3.0" in PYPROJECT["project"]["license"].split()
    licence = str((example.FOLDER / "LICENSE").relative_to(ROOT))
    assert licence in PYPROJECT["project"]["license-files"]


def test_make_demo_starts_the_demo():
    assert "python -m madad_jax demo --out=runs/demo\n" in (ROOT / "Makefile").read_text()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A wheel of this tree, unpacked; built from a copy, so that nothing is left in the tree."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
        pytest.skip(f"setuptools {setuptools.__version__} is too old; >= {OLDEST_SETUPTOOLS}")
    copy, out = (tmp_path_factory.mktemp(name) for name in ("tree", "wheel"))
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in ("madad_jax", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skipped)
    for file in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / file, copy / file)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out / 'dist')!r})"
    place = pathlib.Path(setuptools.__file__).parents[1]
    status, _, error = run("-c", code, cwd=copy, path=place)
    assert status == 0, error[-2000:]
    (wheel,) = (out / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


@pytest.mark.slow
def test_the_wheel_holds_the_tree(unpacked):
    for source, target in (("madad_jax", "madad_jax"), ("configs", "madad_jax/configs")):
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                packed = unpacked / target / path.relative_to(ROOT / source)
                assert packed.read_bytes() == path.read_bytes(), packed
    licences = {path.read_bytes() for path in unpacked.glob("*.dist-info/licenses/**/LICENSE")}
    assert (example.FOLDER / "LICENSE").read_bytes() in licences
    assert not (unpacked / "configs").exists() and not (unpacked / "tests").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "configs/demo.py", "paper/table2", "baselines/thor"])
def test_an_installed_package_finds_its_experiments(unpacked, tmp_path, name):
    """A key that there is not: the config was found, and it imported its own `configs.*`."""
    status, _, error = run(
        *("-m", "madad_jax", "run", f"--config={name}", "--config.nme=x"),
        cwd=tmp_path,
        path=unpacked,
    )
    assert status == 2 and "no key 'nme'" in error and 'Did you mean "name"' in error, error
    status, _, error = run(
        "-m", "madad_jax", "run", "--config=nope", cwd=tmp_path, path=unpacked
    )  # fmt: skip
    assert status == 2 and "nope" in error
    code = "import madad_jax; print(madad_jax.__file__)"
    assert str(unpacked) in run("-c", code, cwd=tmp_path, path=unpacked)[1]
