"""A folder of damaged scans: each is named or judged, the others are done, the status is 1."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.data import discovery
from madad_jax.predict import scan_folder
from tests.predict import conftest, test_fuzz
from tests.predict.test_dicom import write_series


def _small():
    image, affine = test_fuzz._coarse(np.random.default_rng(5))
    return np.round(image).astype(np.int16), affine


def _good(folder):
    nib.save(nib.Nifti1Image(*_small()), folder / "good.nii.gz")


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _flipped_bit(folder):
    content = bytearray(gzip.compress(nib.Nifti1Image(*_small()).to_bytes(), mtime=0))
    content[len(content) // 2] ^= 16
    (folder / "bit.nii.gz").write_bytes(content)


def _cut(folder):
    (folder / "cut.nii").write_bytes(nib.Nifti1Image(*_small()).to_bytes()[:-1000])


def _four(folder):
    image, affine = _small()
    nib.save(nib.Nifti1Image(np.stack([image] * 2, -1), affine), folder / "four.nii")


def _empty_scan(folder):
    image, affine = _small()
    nib.save(nib.Nifti1Image(np.zeros_like(image), affine), folder / "zero.nii")


def _series(name, change):
    """A series of which `change` damages one file (given its path)."""

    def write(folder):
        image, affine = _small()
        write_series(folder / name, image, affine)
        change(folder / name / "003.dcm")

    return write


def _shorten(path):
    path.write_bytes(path.read_bytes()[:-50])


def _spoil(path):
    content = path.read_bytes()
    path.write_bytes(content[:140] + b"\xff" * 60 + content[200:])


def _copy(path):
    (path.parent / "003 (1).dcm").write_bytes(path.read_bytes())


# name of the scan -> (what writes it, status)
KINDS = {
    "good": (_good, "done"),
    "text": (_write("text.nii", b"no scan " * 100), "failed"),
    "nothing": (_write("nothing.nii", b""), "failed"),
    "gzip": (_write("gzip.nii.gz", b"\x1f\x8b" + b"x" * 100), "failed"),
    "bit": (_flipped_bit, "failed"),
    "cut": (_cut, "failed"),
    "four": (_four, "failed"),
    "zero": (_empty_scan, "failed"),
    "junk": (_write("junk.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 50), None),
    "series": (_series("series", lambda path: None), "done"),
    "copies": (_series("copies", _copy), "done"),
    "missing": (_series("missing", lambda path: path.unlink()), "failed"),
    "short": (_series("short", _shorten), "failed"),
    "spoilt": (_series("spoilt", _spoil), "failed"),
}


def test_every_scan_is_named_or_done(setting, tmp_path):
    root, out = tmp_path / "in", epath.Path(tmp_path / "out")
    for name, (write, _) in KINDS.items():
        folder = root / "single" if name == "junk" else root
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    found, _ = discovery.discover(str(root))
    made = conftest.make_detector(setting)
    rows = scan_folder.predict_scans(made, found, out, single=False, workers=2, report=False)
    status = {row["scan"]: row["status"] for row in rows}
    expected = {name: end for name, (_, end) in KINDS.items() if end}
    assert status == expected | {"single": "failed"}
    for row in rows:
        assert "unexpected" not in row["message"] and "\n" not in row["message"]
        if row["status"] == "failed":
            assert row["scan"] in row["message"]
    scores = {row["scan"]: row["score"] for row in rows if row["status"] == "done"}
    assert scores["series"] == scores["copies"] == pytest.approx(scores["good"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_hundred_damaged_scans(setting, tmp_path):
    """The kinds of `test_fuzz`, in one folder."""
    root, out = tmp_path / "in", epath.Path(tmp_path / "out")
    root.mkdir()
    for seed in range(200):
        kind = test_fuzz.KINDS[seed % len(test_fuzz.KINDS)]
        content = bytes(kind(np.random.default_rng([seed, 9])))
        (root / f"{seed:03d}.nii").write_bytes(content)
    found, _ = discovery.discover(str(root))
    made = conftest.make_detector(setting)
    rows = scan_folder.predict_scans(made, found, out, single=False, workers=2, report=False)
    assert len(rows) == 200 and {row["status"] for row in rows} == {"done", "failed"}
    assert not [row for row in rows if "unexpected" in row["message"]]
    assert all(row["message"] for row in rows if row["status"] == "failed")
