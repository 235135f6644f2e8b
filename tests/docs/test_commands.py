"""Commands of the pages: the program is there, its flags and configs too, and some are run."""

import argparse
import importlib
import os
import re
import subprocess
import sys

import pytest
from absl import flags

from madad_jax import __main__ as entry
from madad_jax import main as main_program
from madad_jax.core import command_line, errors, shipped_configs
from tests.docs import pages

BLOCKS = pages.all_blocks()
COMMANDS = sorted({c for block in BLOCKS for c in block.commands})
CHECKED = [c for c in COMMANDS if c.startswith(("madad-jax ", "python -m "))]
# Other words that a line may begin with.
OTHERS = ("git", "cd", "python3", "source", "pip", "make", "launch/", "bash", "sbatch", "sky", "cp")
OTHERS += ("docker", "apptainer")


class Parsed(BaseException):
    """The command line was read: nothing more shall happen."""


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """Commands read their flags and end."""
    parsed = command_line.parsed
    parse_args = argparse.ArgumentParser.parse_args
    parse_known = argparse.ArgumentParser.parse_known_args

    def read(*arguments, **options):
        parsed(*arguments, **options)
        raise Parsed

    def read_args(*arguments, **options):
        parse_args(*arguments, **options)
        raise Parsed

    def read_known(parser, *arguments, **options):
        """Of a program that hands `--config.key` flags on, and nothing else."""
        # Called by parse_args too, whose own turn comes after.
        found, rest = parse_known(parser, *arguments, **options)
        if sys._getframe(1).f_code is parse_args.__code__:
            return found, rest
        if [word for word in rest if not word.startswith("--config.")]:
            raise errors.UserError(f"unknown: {rest}")
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", read_known)
    monkeypatch.setattr(command_line, "parsed", read)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_args)


def check_config(value, changes):
    """Loads `FILE[:ARGUMENT]` and holds `--config.key` flags against it."""
    path, _, argument = shipped_configs.locate(value).partition(":")
    if not os.path.isfile(path):
        raise errors.UserError(f"no config {value}")
    name = os.path.relpath(path, pages.ROOT).removesuffix(".py").replace(os.sep, ".")
    config = importlib.import_module(name).get_config(*([argument] if argument else []))
    for key in changes:
        place = config
        for part in key.split("."):
            if part not in place:
                raise errors.UserError(f"{value} has no key {key}")
            place = place[part]


def check_experiment(arguments, more=()):
    """Flags of `madad_jax.main`, whose parser is absl's own and reads once a process."""
    known = {f.name for f in flags.FLAGS.get_key_flags_for_module("madad_jax.main")}
    value, changes = "", []
    for word in arguments:
        flag, _, given = word.partition("=")
        flag = flag.removeprefix("--")
        if flag == "config":
            value = given
        elif flag.startswith("config."):
            changes.append(flag.removeprefix("config."))
        elif flag not in known | set(more):
            raise errors.UserError(f"no flag --{flag}")
        elif flag == "mode" and given not in main_program.MODES:
            raise errors.UserError(f"no mode {given}")
    if not value.endswith("ours.py"):  # a reader's own
        check_config(value, changes)


def check_flags(program, arguments):
    """Flags of a program that absl starts, against its own."""
    known = {f.name for f in flags.FLAGS.get_key_flags_for_module(program.__name__)}
    for word in arguments:
        flag = word.partition("=")[0].removeprefix("--")
        if flag not in known:
            raise errors.UserError(f"no flag --{flag}")


def check(command, monkeypatch):
    """Raises UserError, SystemExit or ImportError for a command that cannot be."""
    words = pages.words(command)
    if words[0] == "madad-jax" or words[:3] == ["python", "-m", "madad_jax"]:
        verb, *arguments = words[1 if words[0] == "madad-jax" else 3 :]
        if verb.startswith("--"):
            assert verb in ("--help", "--version")
            return
        if verb not in entry.VERBS:
            raise errors.UserError(f"no verb {verb}")
        known = entry.VERBS[verb]
        if known.module == "madad_jax.main":
            check_experiment([*known.flags, *arguments])
            return
        module, given = known.module, [*known.flags, *arguments]
    else:
        module, given = words[2], words[3:]
        if module == "madad_jax.main":
            check_experiment(given)
            return
        if module == "benchmarks.speed":
            check_experiment([w for w in given if not w.startswith("--suite=")])
            return
    program = importlib.import_module(module)
    if module == "benchmarks.costs":
        check_flags(program, given)
        return
    monkeypatch.setattr(sys, "argv", [module, *given])
    try:
        status = program.main() if hasattr(program, "main") else program.run(given)
    except Parsed:
        return
    raise errors.UserError(f"ended with {status} before its flags were read")


@pytest.mark.parametrize("command", CHECKED)
def test_the_command_could_be_run(command, stop_after_parsing, monkeypatch):
    check(command, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "madad-jax pepare --in=x",
        "madad-jax predict --input=x --output=y --thresh=1",
        "madad-jax run --config=no_such",
        "madad-jax run --config=demo --config.train.step=3",
        "madad-jax run --config=demo --workdr=x",
        "madad-jax pack --input=x",
        "python -m madad_jax.main --mode=tran --config=demo",
        "python -m benchmarks.costs --chek",
    ],
)
def test_a_command_that_cannot_be_is_seen(command, stop_after_parsing, monkeypatch, capsys):
    with pytest.raises((errors.UserError, SystemExit)):
        check(command, monkeypatch)


def test_other_lines_name_what_is_there():
    targets = re.findall(r"^([\w-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in set(COMMANDS) - set(CHECKED):
        first, *rest = pages.words(command)
        assert first.startswith(OTHERS), command
        if first == "make":
            assert rest[0] in targets, command


def test_marks_are_known():
    assert {block.needs for block in BLOCKS} <= {None, *pages.NEEDS}
    assert sum(block.needs is None for block in BLOCKS) >= 1


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.needs is None], ids=str)
def test_unmarked_blocks_run(block, tmp_path):
    """What needs neither data nor minutes is run as it stands, in an empty folder."""
    environment = os.environ | {"PYTHONPATH": str(pages.ROOT)}
    for command in block.commands:
        words = pages.words(command)
        words = ["python", "-m", "madad_jax", *words[1:]] if words[0] == "madad-jax" else words
        assert words[:2] == ["python", "-m"], f"{command}: mark the block, or make it runnable"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and done.stdout, f"{command}\n{done.stderr}"
