"""The brain mask of a head scan, by the networks of deepbet run through JAX.

    pip install --no-deps deepbet          # 10 MB: weights, MIT licence; PyTorch is not needed
    python -m madad_jax extract-brain --in=scan.nii.gz --out=mask.nii.gz

Two passes of one small network (networks/brain_extraction.py): the whole volume at 128^3 finds a
box, the box at 256^3 finds the brain; then the largest component, its holes filled. Method and
weights: Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845. Any contrast that shows the head
does; it was trained on T1.

`--serve` takes requests on standard input, one a line: the path of a `.npy` volume in canonical
orientation and the path of the mask to write (JSON list); it answers `ok` or `error: ...`. The
preparation of data starts it so, as nothing there may load JAX.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from madad_jax.core import errors


def _answer(line: str) -> str:
    """Does one request of `--serve`."""
    import numpy as np
    from etils import epath

    from madad_jax.predict import extract_brain

    try:
        source, target = json.loads(line)
        with epath.Path(source).open("rb") as handle:
            data = np.load(handle, allow_pickle=False)
        mask = extract_brain.find(data)
        with epath.Path(target).open("wb") as handle:
            np.save(handle, mask)
    except errors.UserError as error:
        return f"error: {error}"
    except (OSError, ValueError, TypeError) as error:
        return f"error: {type(error).__name__}: {' '.join(str(error).split())}"
    return "ok"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m madad_jax extract-brain`; 0 done, 2 bad input in one line."""
    parser = argparse.ArgumentParser(prog="python -m madad_jax extract-brain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--in", dest="source", help="NIfTI file or folder of a DICOM series")
    parser.add_argument("--out", help="NIfTI mask to write, on the scan's own grid")
    parser.add_argument("--serve", action="store_true", help="take requests on standard input")
    options = parser.parse_args(arguments)
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from madad_jax.data import reading
    from madad_jax.predict import extract_brain
    from madad_jax.runtime import startup
    from madad_jax.scans import volumes

    startup.start()  # above all the compile cache: the networks compile for a minute
    if options.serve:
        for line in sys.stdin:
            print(_answer(line), flush=True)
        return 0
    if not options.source or not options.out:
        parser.error("--in and --out are needed")
    try:
        volume = reading.read(options.source)
        mask = extract_brain.find(volume.data)
        volumes.write_nifti(options.out, mask, like=volume)
    except errors.UserError as error:
        print(f"madad_jax extract-brain: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: brain of {mask.sum() * volume.voxel_ml:.0f} ml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
