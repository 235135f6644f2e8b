"""Files damaged at seeded places, read by the program's own readers: one line, or equal values.

    python -m benchmarks.damage                          # writes benchmarks/results/damage.md
    python -m benchmarks.damage --tries=20 --kinds=npz,json --out=

Every kind is tried in a process of its own, whose memory is bounded and each of whose tries has a
time limit. A format without a checksum cannot show a changed number to anybody: such results
have a column of their own, and count as wrong for the others.
"""

import argparse
import io
import json
import multiprocessing
import pathlib
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom

from madad_jax.convert import containers
from madad_jax.core import errors, json_file, version
from madad_jax.data import provenance
from madad_jax.metrics import calibration, scan_stacks
from madad_jax.scans import volumes
from tests import damage
from tests.convert import torch_files
from tests.scans import dicom_writer

MEMORY = 1 << 30  # bytes beyond what the process has at its start
SECONDS = 20
COLUMNS = ("tries", "refused", "equal", "changed", "wrong", "tracebacks")
_STATE = {
    "encoder.conv_in.weight": np.arange(72, dtype=np.float32).reshape(8, 1, 3, 3),
    "encoder.conv_in.bias": np.linspace(-1, 1, 8, dtype=np.float16),
}


def _nifti() -> bytes:
    import nibabel as nib

    array = np.arange(12 * 13 * 14, dtype=np.int16).reshape(12, 13, 14)
    return nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1])).to_bytes()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_STATE)
    return buffer.getvalue()


def _safetensors() -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save(_STATE)


def _packed() -> bytes:
    import gzip

    return gzip.compress(_nifti(), mtime=0)


def _json() -> bytes:
    scans = [{"name": f"scan-{n}", "levels": [n, 2.5], "files": ["a.png"]} for n in range(5)]
    return json.dumps({"version": 1, "scans": scans, "step": 1.5}, indent=1).encode()


def _preparation() -> bytes:
    made = provenance.describe_source(
        name="cohort", root="", modality="T1", image_size=64, cohort=None
    )
    return json.dumps(made.to_dict(), indent=1).encode()


def _calibration() -> bytes:
    maps = np.linspace(0, 0.9, 3 * 16 * 16, dtype=np.float32).reshape(3, 16, 16)
    options = scan_stacks.PRESETS["none"]
    measured = [
        calibration.measure(name, maps, np.ones(maps.shape, bool), (1.0, 1.0, 1.0), options)
        for name in ("a", "b", "c")
    ]
    facts = {"numbers": [0, 2, 1]}
    healthy = {("map", "none"): calibration.Healthy(tuple(measured))}
    return calibration.to_bytes(calibration.Calibration(healthy, {"none": options}, facts))


def _dicom() -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dicom_writer.image(4), enforce_file_format=True)
    return buffer.getvalue()


def _series(path: pathlib.Path) -> dict[str, Any]:
    """The slice at `path` among its neighbours, which are whole."""
    for number in (0, 1, 2, 3, 5, 6, 7, 8):
        if not (other := path.with_name(f"{number}.dcm")).exists():
            pydicom.dcmwrite(other, dicom_writer.image(number), enforce_file_format=True)
    return _volume(path.parent)


def _volume(path: pathlib.Path) -> dict[str, Any]:
    volume = volumes.read(path)
    return {"data": volume.data, "affine": volume.affine}


def _weights(path: pathlib.Path) -> dict[str, Any]:
    return containers.load(path, "autoencoder").state


# kind: (file name, bytes of a whole file, reader, whether a checksum covers its values)
KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[pathlib.Path], Any], bool]] = {
    "nii": ("scan.nii", _nifti, _volume, False),
    "nii.gz": ("scan.nii.gz", _packed, _volume, True),
    "safetensors": ("weights.safetensors", _safetensors, _weights, False),
    "torch": ("weights.pt", lambda: torch_files.zip_bytes(_tensors()), _weights, True),
    "torch-legacy": ("weights.pt", lambda: torch_files.legacy_bytes(_tensors()), _weights, False),
    "npz": ("arrays.npz", _npz, lambda path: containers.read_arrays(path, "--verify"), True),
    "json": ("state.json", _json, json_file.read_object, False),
    "preparation": ("preparation.json", _preparation, provenance.read, False),
    "calibration": (
        "calibration.npz",
        _calibration,
        lambda path: calibration.to_bytes(calibration.from_bytes(path.read_bytes(), path.name)),
        True,
    ),
    "dicom": ("series/4.dcm", _dicom, _series, False),
}


def _tensors() -> Any:
    return torch_files.tensors(_STATE)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return bool(a == b)


def _late(number: int, frame: Any) -> None:
    del number, frame
    raise TimeoutError(f"more than {SECONDS} s")


def attempt(kind: str, tries: int, folder: pathlib.Path) -> dict[str, Any]:
    """What came of the damages of one kind, in this process."""
    name, make, read, checked = KINDS[kind]
    data, path = make(), folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    whole = read(path)
    found: dict[str, Any] = dict.fromkeys(COLUMNS, 0) | {"longest": 0.0, "first": ""}
    signal.signal(signal.SIGALRM, _late)
    for seed in range(tries):
        path.write_bytes(damage.damaged(data, seed)[1])
        found["tries"] += 1
        start = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            equal = _same(whole, read(path))
            outcome = "equal" if equal else "wrong" if checked else "changed"
        except errors.UserError as error:
            outcome = "refused" if "\n" not in str(error) else "wrong"
        except Exception as error:
            outcome = "tracebacks"
            found["first"] = found["first"] or f"seed {seed}: {type(error).__name__}"
        finally:
            signal.alarm(0)
        found[outcome] += 1
        found["longest"] = max(found["longest"], time.perf_counter() - start)
    return found


def _child(kind: str, tries: int, folder: str, answers: Any) -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = attempt(kind, tries, pathlib.Path(folder))
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answers.send(found)


def measured(kind: str, tries: int) -> dict[str, Any]:
    """`attempt` in a process of its own; one that died is told as a traceback."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_child, args=(kind, tries, folder, send))
        process.start()
        send.close()
        try:
            return receive.recv()
        except EOFError:
            nothing = dict.fromkeys(COLUMNS, 0) | {"longest": 0.0, "memory": 0}
            return nothing | {"tracebacks": 1, "first": f"the process died of {kind}"}
        finally:
            process.join()


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown, with what they were made with."""
    lines = ["| kind | " + " | ".join(COLUMNS) + " | longest, s | memory, MiB |"]
    lines.append("| --- " + "| ---: " * (len(COLUMNS) + 2) + "|")
    for kind, row in rows.items():
        cells = [str(row[column]) for column in COLUMNS]
        cells += [f"{row['longest']:.2f}", f"{row['memory'] / 1024:.0f}"]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    versions = f"madad_jax {version.VERSION}, numpy {np.__version__}"
    lines += ["", f"{versions}, Python {platform.python_version()}. `python -m benchmarks.damage`."]
    lines += ["`changed`: other values from a format without a checksum. Memory: beyond the start."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Prints and writes the table; 1 when anything was wrong or a traceback."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", default="benchmarks/results/damage.md")
    options = parser.parse_args(argv)
    rows = {kind: measured(kind, options.tries) for kind in options.kinds.split(",")}
    text = table(rows)
    print(text, end="")
    for kind, row in rows.items():
        if row["first"]:
            print(f"{kind}: {row['first']}")
    if options.out:
        pathlib.Path(options.out).write_text(text)
    return int(any(row["wrong"] or row["tracebacks"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
