"""What the files of a split contradict is told in a line."""

import logging

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data import registry
from madad_jax.data.sources import pack, png_folder


def picture(value, side=8, dtype=np.uint8):
    return np.full((side, side), value, dtype)


def warnings_of(caplog, root, split="train", name="png_folder", image_size=8):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "madad_jax"):
        registry.make_source(split, name=name, root=str(root), modality="T1", image_size=image_size)
    return [record.getMessage() for record in caplog.records]


def write_plain(write_slice, split, stem, value=250, **kinds):
    return write_slice(split, stem, **{"T1": picture(value), "brainmask": picture(1)} | kinds)


def test_nothing_is_said_of_a_plain_folder(tmp_path, write_slice, caplog):
    write_plain(write_slice, "train", "a-slice_1")
    write_plain(write_slice, "val", "b-slice_1", segmentation=picture(0))
    write_plain(write_slice, "test", "c-slice_1", segmentation=picture(1))
    assert [warnings_of(caplog, tmp_path, s) for s in ("train", "val", "test")] == [[], [], []]


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        (4095, np.uint16, "12-bit values in 16-bit files: the brightest brain pixel of 1 slices"),
        (1023, np.uint16, "10-bit values in 16-bit files"),
        (16383, np.uint16, "14-bit values in 16-bit files"),
        (1, np.uint8, "1-bit values in 8-bit files"),
        (63, np.uint8, "6-bit values in 8-bit files"),
        (0, np.uint8, "without a brain pixel above 0"),
    ],
)
def test_pictures_that_use_a_corner_of_the_range(
    tmp_path, write_slice, caplog, values, dtype, said
):
    write_plain(write_slice, "train", "a-slice_1", T1=picture(values, dtype=dtype))
    (line,) = warnings_of(caplog, tmp_path)
    assert said in line and "'train'" in line


def test_one_bright_slice_among_dark_ones_clears_the_split(tmp_path, write_slice, caplog):
    for k in range(70):
        write_plain(write_slice, "train", f"a-slice_{k}", 200 if k == 1 else 30)
    assert warnings_of(caplog, tmp_path) == []


def test_one_split_scaled_unlike_another_is_named(tmp_path, write_slice, caplog):
    write_plain(write_slice, "train", "a-slice_1", 250)
    write_plain(write_slice, "val", "b-slice_1", 90)
    assert warnings_of(caplog, tmp_path) == []
    (line,) = warnings_of(caplog, tmp_path, "val")
    assert "splits 'val' and 'train' are scaled unlike one another" in line


@pytest.mark.parametrize("split", ["train", "val", "test_healthy"])
@pytest.mark.parametrize("name", ["png_folder", "array_record"])
def test_lesions_in_healthy_splits_are_named(tmp_path, write_slice, caplog, split, name):
    write_plain(write_slice, split, "a-slice_1", segmentation=picture(0))
    write_plain(write_slice, split, "a-slice_2", segmentation=picture(3))
    write_plain(write_slice, split, "a-slice_3")
    if name == "array_record":
        pack.pack(tmp_path, tmp_path, ("array_record",))
    (line,) = warnings_of(caplog, tmp_path, split, name)
    assert f"split '{split}' should be healthy, but 1 of 3 slices have a lesion" in line
    assert "'a-slice_2'" in line


def test_abnormal_slices_without_a_lesion_are_named(tmp_path, write_slice, caplog):
    for number, value in enumerate((0, 1)):
        write_plain(write_slice, "train_lesion", f"a-slice_{number}", segmentation=picture(value))
    (line,) = warnings_of(caplog, tmp_path, "train_lesion")
    assert "1 of 2 slices have an empty segmentation" in line


def test_a_test_split_without_truth_is_named(tmp_path, write_slice, caplog):
    write_plain(write_slice, "test", "a-slice_1", seg=picture(1))
    lines = warnings_of(caplog, tmp_path, "test")
    assert len(lines) == 2
    assert "1 files '-seg.png' are not taken" in lines[0]
    assert "did you mean '-segmentation.png'?" in lines[0]
    assert "found no segmentation; no figure against a truth" in lines[1]


def test_lesions_that_hang_on_one_pixel_are_counted(tmp_path, write_slice, caplog):
    small, large = picture(0, 32), picture(0, 32)
    small[3, 3], large[8:24, 8:24] = 1, 1
    for stem, lesion in (("a-slice_1", large), ("a-slice_2", small)):
        full = picture(255, 32)
        write_slice("test", stem, T1=full, brainmask=full, segmentation=lesion)
    (line,) = warnings_of(caplog, tmp_path, "test", image_size=8)
    assert "1 of 2 slices have a lesion that would vanish at 8 px" in line and "a-slice_2" in line
    assert warnings_of(caplog, tmp_path, "test", image_size=32) == []
    source = png_folder.PngFolder(str(tmp_path), split="test", modality="T1", image_size=8)
    assert source[1]["segmentation"].sum() == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a-slice_1-T1.jpg", "no slice is called like 'a-slice_1-T1.jpg'"),
        ("overview.png", "no slice is called like 'overview.png'"),
        ("b-slice_7-segmentation.png", "1 slices have masks and no picture"),
        ("a-slice_1-Seg.PNG", "did you mean '-segmentation.png'?"),
        ("a-slice_1-lesion_mask.png", "did you mean '-segmentation.png'?"),
        ("a-slice_1-mask.png", "did you mean '-segmentation.png'?"),
        ("a-slice_1-segmentaton.png", "did you mean '-segmentation.png'?"),
    ],
)
def test_files_that_fit_no_slice_are_named(tmp_path, write_slice, caplog, name, said):
    folder = write_plain(write_slice, "train", "a-slice_1")
    (folder / name).write_bytes((folder / "a-slice_1-T1.png").read_bytes())
    (folder / "._a-slice_1-T1.png").write_bytes(b"of the system")
    (line,) = warnings_of(caplog, tmp_path)
    assert said in line and line.startswith("1 ")


def test_other_modalities_are_no_strangers(tmp_path, write_slice, caplog):
    write_plain(write_slice, "train", "a-slice_1", T2=picture(9))
    assert warnings_of(caplog, tmp_path) == []
    assert png_folder.list_contents(tmp_path) == {"train": ["T1", "T2"]}


def test_capitals_anywhere_in_a_name_are_read(tmp_path, write_slice, caplog):
    folder = write_plain(write_slice, "test", "a-slice_07", segmentation=picture(1))
    for old, new in (
        ("a-slice_07-T1.png", "a-Slice_07-t1.PNG"),
        ("a-slice_07-brainmask.png", "a-SLICE_07-BrainMask.png"),
        ("a-slice_07-segmentation.png", "a-slice_7-Segmentation.Png"),
    ):
        (folder / old).rename(folder / new)
    assert warnings_of(caplog, tmp_path, "test") == []
    source = png_folder.PngFolder(str(tmp_path), split="test", modality="T1", image_size=8)
    assert [r.id for r in source.records] == ["a-slice_07"] and source[0]["segmentation"].all()


def test_two_files_for_one_slice_are_refused(tmp_path, write_slice):
    write_plain(write_slice, "train", "a-slice_7")
    write_slice("train", "a-slice_07", T1=picture(1))
    with pytest.raises(errors.UserError, match=r"slice_07-T1.png' and 'a-slice_7-T1.png' are the"):
        png_folder.PngFolder(str(tmp_path), split="train", modality="T1", image_size=8)


def test_ids_that_differ_in_case_alone_are_one_person(tmp_path, write_slice):
    write_plain(write_slice, "train", "Sub01-slice_1")
    write_plain(write_slice, "val", "sub01-slice_2")
    with pytest.raises(errors.UserError, match="subject 'Sub01' is in both"):
        png_folder.PngFolder(str(tmp_path), split="train", modality="T1", image_size=8)


def test_ids_whose_accents_are_spelled_otherwise_are_one_person(tmp_path, write_slice):
    write_plain(write_slice, "train", "Jos\u00e9-slice_1")
    write_plain(write_slice, "val", "Jose\u0301-slice_2")
    with pytest.raises(errors.UserError, match="is in both"):
        png_folder.PngFolder(str(tmp_path), split="train", modality="T1", image_size=8)


def test_a_healthy_cohort_without_a_test_split_says_what_to_do(tmp_path, write_slice):
    write_plain(write_slice, "train", "a-slice_1")
    write_plain(write_slice, "test_healthy", "b-slice_1")
    with pytest.raises(errors.UserError, match=r"test' does not exist; found: test_healthy, train"):
        png_folder.PngFolder(str(tmp_path), split="test", modality="T1", image_size=8)


def test_the_advice_for_a_healthy_cohort_can_be_pasted(tmp_path, write_slice):
    write_plain(write_slice, "test_healthy", "b-slice_1")
    with pytest.raises(errors.UserError) as error:
        png_folder.PngFolder(str(tmp_path), split="test", modality="T1", image_size=8)
    assert "--mode=train" in str(error.value)
    assert "--config.eval.sets=\"('test_healthy',)\"" in str(error.value)
