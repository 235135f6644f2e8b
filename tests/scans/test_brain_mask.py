"""Finding the brain: which way, by which program, and whether it is plausible."""

import os
import stat
import sys

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import brain_mask, brain_tools, registration, skull, volumes
from tests.scans import cases


def brain_scan():
    grid = cases.box((3.0, 3.0, 3.0))
    image, brain, _ = cases.see(grid)
    return cases.volume(image, grid.affine), brain


def head_scan():
    """A brain in a skull with noise in the air."""
    volume, brain = brain_scan()
    noise = np.random.default_rng(0).random(volume.data.shape).astype(np.float32) + 1
    return cases.volume(np.where(brain, volume.data, noise), volume.affine), brain


def test_a_stripped_scan_is_seen_and_said():
    volume, brain = brain_scan()
    mask, warnings = brain_mask.find(volume)
    np.testing.assert_array_equal(mask, brain)
    assert "the skull is gone already" in warnings[0]
    assert skull.is_stripped(volume) and not skull.is_stripped(head_scan()[0])


def test_a_given_file_wins(tmp_path):
    volume, brain = head_scan()
    path = cases.save(tmp_path / "m.nii", brain, volume.affine, kind=np.uint8)
    mask, warnings = brain_mask.find(volume, given=path)
    np.testing.assert_array_equal(mask, brain)
    assert warnings == []
    with pytest.raises(errors.UserError, match="no brain mask file"):
        brain_mask.find(volume, "given")


def test_pieces_holes_and_size(tmp_path):
    volume, brain = head_scan()
    broken = brain.copy()
    broken[30, 35, 25] = False
    broken[:3, :3, :3] = True  # A speck.
    path = cases.save(tmp_path / "m.nii", broken, volume.affine, kind=np.uint8)
    mask, warnings = brain_mask.find(volume, "given", given=path)
    np.testing.assert_array_equal(mask, brain)
    assert warnings == []
    half = brain.copy()
    half[30:34] = False
    path = cases.save(tmp_path / "h.nii", half, volume.affine, kind=np.uint8)
    mask, warnings = brain_mask.find(volume, "given", given=path)
    assert "2 pieces" in warnings[0]
    small = np.zeros_like(brain)
    small[20:30, 20:30, 20:30] = True
    path = cases.save(tmp_path / "s.nii", small, volume.affine, kind=np.uint8)
    assert "measures 27 ml; 600 to 2300" in brain_mask.find(volume, "given", given=path)[1][0]
    path = cases.save(tmp_path / "e.nii", small & brain & ~small, volume.affine, kind=np.uint8)
    with pytest.raises(errors.UserError, match="is empty"):
        brain_mask.find(volume, "given", given=path)


def test_the_templates_mask_for_scans_in_mni_space():
    volume, brain = head_scan()
    mask, _ = brain_mask.find(volume, "template")
    assert cases.dice(mask, brain) > 0.98
    assert registration.register(volume, "none", brain=mask).overlap > 0.97


def program(folder, name, body):
    """An executable that stands in for a tool."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys, shutil, pathlib\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize(
    ("method", "name"), [("hd-bet", "hd-bet"), ("synthstrip", "synthstrip-docker")]
)
def test_installed_tools_are_run_by_name(tmp_path, monkeypatch, method, name):
    volume, brain = head_scan()
    volumes.write_nifti(str(tmp_path / "answer.nii.gz"), brain, like=volume)
    # The stand-in checks that it was called as the real one is.
    body = f"""
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(a["-i"]).stat().st_size > 1000
mask = a.get("-m") or a["-o"].replace(".nii.gz", "_bet.nii.gz")
if "-m" not in a: assert "--save_bet_mask" in sys.argv
shutil.copy({str(tmp_path / "answer.nii.gz")!r}, mask)"""
    program(tmp_path, name, body)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    np.testing.assert_array_equal(brain_mask.find(volume, method)[0], brain)


def test_tools_that_are_missing_or_fail(tmp_path, monkeypatch):
    volume, _ = head_scan()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UserError, match="no program 'hd-bet' on the path"):
        brain_tools.run("hd-bet", volume)
    program(tmp_path, "hd-bet", "print('loading'); sys.exit('no GPU found')")
    with pytest.raises(errors.UserError, match="status 1 and no mask: no GPU found"):
        brain_tools.run("hd-bet", volume)


def test_unknown_methods():
    with pytest.raises(errors.UserError, match="hd-bet, synthstrip"):
        brain_mask.find(brain_scan()[0], "bet")
