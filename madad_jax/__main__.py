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
    """A command: the module whose `main()` reads `sys.argv`, and flags that the verb stands for.

    `examples` are the words behind the verb, a line each.
    """

    module: str
    flags: tuple[str, ...]
    help: str
    examples: tuple[str, ...]


_MAIN, _PREDICT = "madad_jax.main", "madad_jax.predict.__main__"
VERBS = {
    "demo": Verb(
        "madad_jax.predict.first_steps",
        (),
        "an example scan, then a small training",
        ("--out=runs/demo", "--out=runs/demo --example_only"),
    ),
    "plan": Verb(
        "madad_jax.experiment.plan",
        (),
        "an experiment for a folder of yours and this machine",
        ("--in=data/ours --out=ours.py", "--in=scans --modality=T1 --nomeasure"),
    ),
    "run": Verb(
        _MAIN,
        ("--mode=run",),
        "train, evaluate and report an experiment (--config=)",
        (
            "--config=demo --workdir=runs/demo",
            "--config=brats:T2 --workdir=runs/t2 --config.data.root=data/brats21",
        ),
    ),
    "train": Verb(
        _MAIN,
        ("--mode=train",),
        "train an experiment's networks",
        (
            "--config=ixi --workdir=runs/ixi --config.data.root=data/ixi",
            "--config=demo --workdir=runs/a --config.train.steps=200",
        ),
    ),
    "evaluate": Verb(
        _MAIN,
        ("--mode=evaluate",),
        "score the test sets of a trained experiment",
        (
            "--config=demo --workdir=runs/demo",
            "--config=demo --workdir=runs/demo --config.eval.protocol=both",
        ),
    ),
    "report": Verb(
        _MAIN,
        ("--mode=report",),
        "write report.md again from what was scored",
        ("--config=demo --workdir=runs/demo", "--config=paper/table2 --workdir=runs/table2"),
    ),
    "compile": Verb(
        _MAIN,
        ("--mode=compile",),
        "costs and memory of every program, without data",
        ("--config=brats:T2 --topology=h100-8", "--config=demo --devices=8"),
    ),
    "predict": Verb(
        _PREDICT,
        ("--mode=predict",),
        "scans to anomaly maps",
        (
            "--input=scan.nii.gz --output=out",
            "--checkpoint=runs/demo --input=scans --output=out --voxel_fpr=0.005",
        ),
    ),
    "bids": Verb(
        "madad_jax.bids.__main__",
        (),
        "a BIDS data set to a derived one with maps, reports and a table",
        (
            "bids_dir output_dir participant --participant-label 01 02 --n-procs=2",
            "bids_dir output_dir group",
        ),
    ),
    "calibrate": Verb(
        _PREDICT,
        ("--mode=calibrate",),
        "thresholds from healthy scans of your own",
        (
            "--input=healthy --output=site.npz",
            "--checkpoint=runs/demo --input=healthy --output=site.npz --include=*_T1w.nii.gz",
        ),
    ),
    "export": Verb(
        _PREDICT,
        ("--mode=export",),
        "a trained detector as files of its own",
        ("--checkpoint=runs/demo --output=model", "--output=model --calibration=site.npz"),
    ),
    "package": Verb(
        "madad_jax.predict.package",
        (),
        "a trained run as a model to hand on",
        (
            "--checkpoint=runs/x --out=x --name=x --licence=CC0-1.0 --licence_file=LICENSE "
            "--card=card.md",
            "--checkpoint=./x --out=y --name=y --licence=CC0-1.0 --licence_file=LICENSE "
            "--card=card.md --dtype=float16",
        ),
    ),
    "models": Verb(
        "madad_jax.predict.list_models",
        (),
        "the models that come with the package",
        ("", "--traceback"),
    ),
    "check": Verb(
        "madad_jax.prepare.check",
        (),
        "what is wrong with scans or slices, beforehand",
        ("--input=scans", "--input=IXI-T1 --cohort=ixi --locate"),
    ),
    "prepare": Verb(
        "madad_jax.prepare.__main__",
        (),
        "a cohort's scans to slices",
        (
            "--cohort=ixi --in=IXI-T1 --out=data/ixi --modality=T1",
            "--cohort=folder --cohort_file=ours.yaml --in=scans --out=data/ours --protocol=s2",
        ),
    ),
    "pack": Verb(
        "madad_jax.data.sources.pack",
        (),
        "a folder of slices to array records or TFDS",
        ("--in=data/ixi", "--in=data/ixi --out=packed --format=array_record,tfds"),
    ),
    "convert": Verb(
        "madad_jax.convert.__main__",
        (),
        "PyTorch weights in and out",
        (
            "--kind=autoencoder --in=VAE-Medical-klf8.pt --out=runs/vae",
            "--kind=unet --in=runs/demo --out=last.pt --to=torch",
        ),
    ),
    "compare": Verb(
        "madad_jax.evaluation.compare",
        (),
        "paired differences between runs",
        ("--run=runs/a --run=runs/b", "--run=runs/a --run=runs/b --set=test --draws=5000"),
    ),
    "compare-visits": Verb(
        "madad_jax.predict.visits.command",
        (),
        "two visits of one person: what is new, what is gone",
        (
            "--first=before.nii.gz --second=after.nii.gz --output=visits",
            "--first=out/a --second=out/b --output=visits --healthy_spread=healthy_spread.json",
        ),
    ),
    "draw-lesions": Verb(
        "madad_jax.predict.draw_lesions",
        (),
        "lesions learned from a few slices, drawn into healthy ones",
        (
            "--checkpoint=runs/x --examples=ms --input=data/ours/test_healthy --output=drawn",
            "--appearance=copy --modality=T1 --examples=ms --input=data/ours/train --output=copied",
        ),
    ),
    "extract-brain": Verb(
        "madad_jax.predict.brain_command",
        (),
        "the brain mask of a head scan",
        ("--in=scan.nii.gz --out=mask.nii.gz", "--in=dicom --out=mask.nii.gz"),
    ),
}
_HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def help_text() -> str:
    """The verbs, a line each."""
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:{width}}{verb.help}" for name, verb in VERBS.items()]
    head = "madad-jax VERB [--flag=value ...]; `madad-jax VERB --help` lists the flags of a verb."
    tail = [
        'Completion in bash and zsh (bashcompinit): eval "$(madad-jax --completion)"',
        "Research software, not a medical device.",
    ]
    return "\n".join([head, "", *lines, "", *tail])


def verb_text(name: str) -> str:
    """What a verb does, and how it is called: printed above its flags."""
    verb = VERBS[name]
    lines = [f"  madad-jax {name} {words}".rstrip() for words in verb.examples]
    return "\n".join([f"madad-jax {name}: {verb.help}", "", *lines, ""])


def completion() -> str:
    """A line for a shell: completes verbs, and files behind them."""
    return f"complete -o default -W '{' '.join(VERBS)}' madad-jax"


def main() -> int:
    """Runs the verb that `sys.argv` names; 2 for one that there is not."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"madad_jax {VERSION}")
        return 0
    if name == "--completion":
        print(completion())
        return 0
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(VERBS)}"
        print(f"madad_jax: error: verb: found {name!r}; {hint}", file=sys.stderr)
        return 2
    verb = VERBS[name]
    if set(sys.argv[2:]) & set(_HELP):
        print(verb_text(name))
    sys.argv = [f"madad-jax {name}", *verb.flags, *sys.argv[2:]]
    module = importlib.import_module(verb.module)
    # absl prints the docstring of the program that runs above its flags: not this one's.
    sys.modules["__main__"].__doc__ = module.__doc__
    # Some commands return their status and some leave by themselves.
    return module.main() or 0


if __name__ == "__main__":
    sys.exit(main())
