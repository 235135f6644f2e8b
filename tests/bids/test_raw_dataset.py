"""What of a data set is a scan of the model's contrast, read by names."""

import pytest

from madad_jax.bids import raw_dataset
from madad_jax.core import errors


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


TREE = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii.gz",
    "sub-01/anat/sub-01_ce-gd_T1w.nii.gz",
    "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
    "sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
    "sub-01/anat/sub-01_part-phase_T1w.nii.gz",
    "sub-01/anat/sub-01_T1w.json",
    "sub-01/func/sub-01_task-rest_bold.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii",
    "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-03_ses-b_T1w.nii.gz",
    "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
    ".git/sub-09/anat/sub-09_T1w.nii.gz",
)


def names(dataset, contrast):
    return [str(image.name) for image in raw_dataset.select(dataset, contrast)]


def test_images_of_a_contrast_and_a_line_for_everything_else(tmp_path, caplog):
    dataset = raw_dataset.read(touch(tmp_path, *TREE))
    assert names(dataset, "T1") == [
        "sub-01_T1w", "sub-02_ses-a_run-1_T1w", "sub-02_ses-a_run-2_T1w", "sub-02_ses-b_T1w",
    ]  # fmt: skip
    said = caplog.text
    for line in (
        "no raw data: 2 ('derivatives/', 'sourcedata/')",
        "masks and other files that are no T1w, T2w, FLAIR or PDw: 1 ('sub-01/anat/sub-01_desc-",
        "derivatives by their names: 1 ('sub-01/anat/sub-01_space-MNI_T1w.nii.gz')",
        "parts that are no magnitude: 1",
        "names that BIDS does not know in their folder: 1 ('sub-02/ses-b/anat/sub-03",
        "another contrast than T1: 2 (",
        "dataset_description.json is missing",
    ):
        assert line in said
    assert names(dataset, "FLAIR") == ["sub-01_FLAIR"]
    assert names(dataset, "T1CE") == ["sub-01_ce-gd_T1w"]
    with pytest.raises(errors.UserError, match="no \\*_T2w of T2"):
        raw_dataset.select(dataset, "T2")
    with pytest.raises(errors.UserError, match="contrast is 'CT'; accepted for BIDS: T1,"):
        raw_dataset.select(dataset, "CT")


def test_people_and_sessions_are_chosen_by_label(tmp_path):
    root = touch(tmp_path, *TREE)
    assert names(raw_dataset.read(root, ["sub-01"]), "T1") == ["sub-01_T1w"]
    assert names(raw_dataset.read(root, ["01", "02"], ["b"]), "T1") == ["sub-02_ses-b_T1w"]
    with pytest.raises(errors.UserError, match=r"--participant-label: found '2'.*accepted: 01, 02"):
        raw_dataset.read(root, ["2"])
    with pytest.raises(errors.UserError, match=r"--session-label: found 'c'.*accepted: a, b"):
        raw_dataset.read(root, [], ["ses-c"])
    with pytest.raises(errors.UserError, match="there are no sessions"):
        raw_dataset.read(root, ["01"], ["a"])


def test_two_files_of_one_name_are_a_fault_and_a_link_to_nothing_is_a_scan(tmp_path):
    root = touch(tmp_path, "sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "sub-2" / "anat").mkdir(parents=True)
    (tmp_path / "sub-2" / "anat" / "sub-2_T1w.nii.gz").symlink_to("../annex/gone")
    images = raw_dataset.select(raw_dataset.read(root), "T1")
    assert [bool(image.fault) for image in images] == [True, True, False]
    assert "2 files are called sub-1_T1w; keep one" in images[0].fault
    assert images[2].to_scan().name == "sub-2_T1w"


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(errors.UserError, match="no such folder"):
        raw_dataset.read(str(tmp_path / "gone"))
    with pytest.raises(errors.UserError, match=r"no sub-\* folder"):
        raw_dataset.read(str(tmp_path))
