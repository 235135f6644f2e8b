"""`madad-jax VERB ...`, also `python -m madad_jax VERB ...`: one entry to every command.

A verb starts the module that does the work, with the flags that follow. Only that module is
imported, so that `--help` answers at once.
"""

import dataclasses
import difflib
import importlib
import sys

from madad_jax.core.version import VERSION


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command: the module whose `main()` reads `sys.argv`, and flags that the verb stands for."""

    module: str
    flags: tuple[str, ...]
    help: str


_MAIN, _PREDICT = "madad_jax.main", "madad_jax.predict.__main__"
VERBS = {
    "demo": Verb("madad_jax.predict.first_steps", (), "an example scan, then a small training"),
    "run": Verb(_MAIN, ("--mode=run",), "train, evaluate and report an experiment (--config=)"),
    "train": Verb(_MAIN, ("--mode=train",), "train an experiment's networks"),
    "evaluate": Verb(_MAIN, ("--mode=evaluate",), "score the test sets of a trained experiment"),
    "report": Verb(_MAIN, ("--mode=report",), "write report.md again from what was scored"),
    "compile": Verb(_MAIN, ("--mode=compile",), "costs and memory of every program, without data"),
    "predict": Verb(_PREDICT, ("--mode=predict",), "scans to anomaly maps"),
    "calibrate": Verb(_PREDICT, ("--mode=calibrate",), "thresholds from healthy scans of your own"),
    "export": Verb(_PREDICT, ("--mode=export",), "a trained detector as files of its own"),
    "package": Verb("madad_jax.predict.package", (), "a trained run as a model to hand on"),
    "models": Verb("madad_jax.predict.list_models", (), "the models that come with the package"),
    "check": Verb("madad_jax.prepare.check", (), "what is wrong with scans or slices, beforehand"),
    "prepare": Verb("madad_jax.prepare.__main__", (), "a cohort's scans to slices"),
    "pack": Verb("madad_jax.data.sources.pack", (), "a folder of slices to array records or TFDS"),
    "convert": Verb("madad_jax.convert.__main__", (), "PyTorch weights in and out"),
    "compare": Verb("madad_jax.evaluation.paired", (), "paired differences between runs"),
    "extract-brain": Verb("madad_jax.predict.extract_brain", (), "the brain mask of a head scan"),
}


def help_text() -> str:
    """The verbs, a line each."""
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:{width}}{verb.help}" for name, verb in VERBS.items()]
    head = "madad-jax VERB [--flag=value ...]; `madad-jax VERB --help` lists the flags of a verb."
    return "\n".join([head, "", *lines, "", "Research software, not a medical device."])


def main() -> int:
    """Runs the verb that `sys.argv` names; 2 for one that there is not."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"madad_jax {VERSION}")
        return 0
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(VERBS)}"
        print(f"madad_jax: error: verb: found {name!r}; {hint}", file=sys.stderr)
        return 2
    verb = VERBS[name]
    sys.argv = [f"madad-jax {name}", *verb.flags, *sys.argv[2:]]
    module = importlib.import_module(verb.module)
    # absl prints the docstring of the program that runs above its flags: not this one's.
    sys.modules["__main__"].__doc__ = module.__doc__
    # Some commands return their status and some leave by themselves.
    return module.main() or 0


if __name__ == "__main__":
    sys.exit(main())
