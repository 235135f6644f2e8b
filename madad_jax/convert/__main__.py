"""PyTorch weights in and out.

    python -m madad_jax convert --in=last.pt --out=runs/official
    python -m madad_jax convert --in=VAE-Medical-klf8.pt --out=runs/official
    python -m madad_jax convert --in=sd-vae.safetensors --out=runs/sd --adapt=sum
    python -m madad_jax convert --in=runs/mine --kind=unet --to=torch --out=mine.safetensors

Reads state dicts, whole pickled modules, LDM and diffusers checkpoints, under any prefix or entry
({"model": ...}, `module.`, `ema_model.`), as `.pt`, `.ckpt`, `.bin`, `.safetensors`, shards with an
index, or a folder with one of them; needs no PyTorch and runs nothing of what a file says.
Exit status: 0 done; 1 `--verify` found errors above the tolerance; 2 bad input, one line.
In the last two cases nothing is written.
"""

import math
import sys
from collections.abc import Sequence

from absl import flags

from madad_jax.core import command_line, errors, folder_lock

KINDS = ("unet", "autoencoder", "dit")


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    text = {
        "in": "Weights file or folder of Diffusers; with --to=torch the folder of a run.",
        "out": "Folder to write; with --to=torch a .safetensors or .pt file.",
        "prefix": "Of the tensors to take, where a file holds several networks; . for none.",
        "verify": ".npz with the original's inputs and outputs (NCHW).",
    }
    for name, meaning in text.items():
        flags.DEFINE_string(name, "", meaning, flag_values=values)
    choices = {
        "kind": (KINDS, "Kind of network; guessed when left out."),
        "to": (("jax", "torch"), "Direction; jax when left out."),
        "adapt": (("sum", "mean"), "3-channel autoencoders: reduction of the input kernel."),
    }
    for name, (accepted, meaning) in choices.items():
        flags.DEFINE_enum(name, None, accepted, meaning, flag_values=values)
    flags.DEFINE_float(
        "tolerance", 2e-5, "Largest absolute error that --verify accepts.", flag_values=values
    )
    for name in ("num_heads", "num_groups"):
        flags.DEFINE_integer(
            name, 0, "Leaves no trace in a state dict; 0 guesses it.", 0, flag_values=values
        )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
        UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("in", "out")):
        return 0
    return _to_torch(options) if options.to == "torch" else _to_jax(options)


def _to_jax(options: flags.FlagValues) -> int:
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from madad_jax.convert import containers, conversion, store

    source, out = options["in"].value, options.out
    if options.kind:
        store.check_free(out, options.kind)
    weights = containers.load(source, options.kind or "", options.prefix)
    print(f"{source}: {weights.kind}, {len(weights.state)} tensors")
    store.check_free(out, weights.kind)
    heads = options.num_heads or weights.settings.get("num_heads", 0)
    groups = options.num_groups or weights.settings.get("num_groups", 0)
    converted = conversion.convert(
        weights.kind, weights.state, num_heads=heads, num_groups=groups, adapt=options.adapt or ""
    )
    for note in (*weights.notes, *converted.notes):
        print(f"  {note}")
    shown = ", ".join(f"{k}={v}" for k, v in converted.settings.items() if v is not None)
    print(f"  sizes: {shown}")
    if options.verify and not _verified(converted, options.verify, options.tolerance):
        return 1
    with folder_lock.hold(out, "--out"):
        command = store.write(out, converted, source)
    print(f"written to {out}; next:\n{command}")
    return 0


def _verified(converted, path: str, tolerance: float) -> bool:
    """Prints the largest errors; whether all are within the tolerance."""
    from madad_jax.convert import verify

    worst = 0.0
    for name, error in verify.largest_errors(converted, path).items():
        print(f"  {name}: largest absolute error {error:.3g}")
        worst = max(worst, math.inf if math.isnan(error) else error)
    if worst > tolerance:
        print(f"above the tolerance of {tolerance:g}: nothing is written")
    return worst <= tolerance


def _to_torch(options: flags.FlagValues) -> int:
    for name in ("verify", "adapt", "prefix"):
        if options[name].value:
            raise errors.UserError(f"--{name} has no meaning with --to=torch")
    from madad_jax.convert import conversion, export

    export.check_out(options.out)
    kind, params = export.read_run(options["in"].value, options.kind or "")
    state = conversion.to_official(kind, params)
    export.write(options.out, kind, state)
    count = sum(array.size for array in state.values())
    print(f"{options.out}: {kind}, {len(state)} tensors, {count:,} numbers, float32")
    for note in export.notes(kind, params):
        print(f"  {note}")
    return 0


def main() -> None:
    """Entry point of `python -m madad_jax convert`."""
    command_line.leave(command_line.status("madad_jax convert", run, sys.argv))


if __name__ == "__main__":
    main()
