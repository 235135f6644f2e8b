"""A folder of PNG slices as ArrayRecord shards or as a TFDS data set.

    python -m madad_jax pack --in=data/brats --format=array_record,tfds

Every split and modality of the folder is packed; the same command again does what is not done.
Exit status: 0 done; 2 bad input, one line; 130 and 143 stopped by ctrl-C and SIGTERM.
Training reads all three with `data.source=png_folder|array_record|tfds` and `data.root`: the same
pixels in the same order.
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from madad_jax.core import atomic_files, command_line, errors, folder_lock

FORMATS = ("array_record", "tfds")


def pack(root: epath.PathLike, out: epath.PathLike, formats: Sequence[str]) -> list[str]:
    """Packs `root` under `out` in each of `formats`; returns a line for each thing made or found.

    Args:
      root: folder of PNG slices.
      out: local folder; may be `root` itself, so that one `data.root` serves every source.
      formats: of `FORMATS`.

    Raises:
      UserError: unknown format, bad slices, or `out` cannot be written.
    """
    check(formats)
    # Here and not above: `--help` needs no numpy.
    from madad_jax.data.sources import array_record, png_folder

    root, out = epath.Path(root), epath.Path(out)
    found = png_folder.list_contents(root)
    for split in found:
        # A dash ends the split's name in the names of shards and indices.
        if not split.isidentifier():
            raise errors.UserError(
                f"'{root / split}': the name of a packed split may hold letters, digits and _ alone"
            )
    lines = []
    if "array_record" in formats:
        for split, modalities in found.items():
            for modality in modalities:
                # The size of decoded slices does not matter: bytes are packed as they are.
                source = png_folder.PngFolder(
                    str(root), split=split, modality=modality, image_size=8
                )
                # What is passed over here is not in the shards either, where nobody can see it.
                lines += [f"{root / split}: {note}" for note in source.notes]
                made = array_record.write(source, out, split, modality)
                lines.append(f"{out}/{split}-{modality}: {len(source)} slices{_state(made)}")
        _copy_geometry(root, out)
    if "tfds" in formats:
        # Here and not above: TFDS takes seconds to import.
        from madad_jax.data.sources import tfds_builder

        made = tfds_builder.write(root, out)
        folder = tfds_builder.find(out)
        _copy_geometry(root, folder)
        lines.append(f"{folder}: TFDS data set of {', '.join(found)}{_state(made)}")
    return lines


def check(formats: Sequence[str]) -> None:
    """Raises UserError unless all of `formats` are of `FORMATS`."""
    for name in formats:
        if name not in FORMATS:
            raise errors.UserError(f"format: found '{name}', accepted: {', '.join(FORMATS)}")


def _state(made: bool) -> str:
    return "" if made else " (was there)"


def _copy_geometry(root: epath.Path, folder: epath.Path) -> None:
    """How the slices lie in the head goes with them."""
    if root != folder and (root / "dataset.json").exists():
        content = atomic_files.read_bytes(root / "dataset.json")
        atomic_files.write_bytes(folder / "dataset.json", content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m madad_jax pack`; 0 done, 2 bad input, 130 and 143 stopped."""
    parser = argparse.ArgumentParser(prog="python -m madad_jax pack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--in", dest="root", required=True, help="folder of PNG slices")
    parser.add_argument("--out", default="", help="local folder; default: beside the slices")
    parser.add_argument("--format", default="array_record", help="array_record, tfds, or both")
    options = parser.parse_args(arguments)
    out = options.out or options.root

    def run(argv: Sequence[str]) -> int:
        del argv
        with folder_lock.hold(out, "--out"):
            for line in pack(options.root, out, options.format.split(",")):
                print(line)
        return 0

    return command_line.status("madad_jax pack", run, ())


if __name__ == "__main__":
    sys.exit(main())
