"""Scans and masks by the patterns of a cohort's table."""

import pytest

from madad_jax.core import errors
from madad_jax.data import pairs

IMAGES, MASKS = "{id}/anat/*_T1w{nii}", "{id}/anat/*_mask{nii}"


@pytest.fixture
def root(tmp_path):
    for name in ("a/anat/a_T1w.nii.gz", "a/anat/a_mask.nii.gz", "b/anat/b_T1w.NII"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_scan_and_a_mask_of_one_id_belong_together(root):
    one, two = pairs.find(str(root), IMAGES, MASKS)
    assert (one.name, one.fault) == ("a_anat_a_T1w", "")
    assert one.path == root / "a/anat/a_T1w.nii.gz"
    assert one.brain_mask == str(root / "a/anat/a_mask.nii.gz")
    # Found by another way its brain would not be the one that was asked for.
    assert two.brain_mask == "" and "found 0 files that fit" in two.fault and "'b'" in two.fault
    assert [scan.fault for scan in pairs.find(str(root), IMAGES, "")] == ["", ""]


def test_two_masks_of_one_id_are_a_fault(root):
    (root / "a/anat/a_other_mask.nii").touch()
    assert "found 2 files" in pairs.find(str(root), IMAGES, MASKS)[0].fault


def test_folders_of_series(root):
    (root / "c" / "dicom").mkdir(parents=True)
    (root / "c" / "mask.nii.gz").touch()
    (found,) = pairs.find(str(root), "{id}/dicom/", "{id}/mask{nii}")
    assert found.path == root / "c/dicom" and found.brain_mask == str(root / "c/mask.nii.gz")


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("*_T1w{nii}", "", r"'--image_pattern': found '\*_T1w\{nii\}', accepted: a pattern that"),
        (IMAGES, "mask{nii}", r"'--brain_mask_pattern': found 'mask\{nii\}'"),
        ("{id}_t1w{nii}", "", r"no scan fits --image_pattern=\{id\}_t1w\{nii\}; .*a_T1w.nii.gz"),
        ("{id}/anat/*{nii}", "", r"2 scans of the id 'a': a/anat/a_T1w.nii.gz, a/anat/a_mask"),
    ],
)
def test_what_a_person_can_mend(root, images, masks, message):
    with pytest.raises(errors.UserError, match=message):
        pairs.find(str(root), images, masks)


def test_a_file_is_no_folder(root):
    with pytest.raises(errors.UserError, match="patterns belong to a folder"):
        pairs.find(str(root / "a/anat/a_T1w.nii.gz"), IMAGES, MASKS)
