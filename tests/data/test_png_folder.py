import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.sources import png_folder


def _grey(height, width, value=200):
    return np.full((height, width), value, np.uint8)


def _open(root, split="train", modality="T1", image_size=8):
    return png_folder.PngFolder(str(root), split=split, modality=modality, image_size=image_size)


def test_scales_to_minus_one_and_one_and_empties_the_background(tmp_path, write_slice):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1  # Coded 0/1, not 0/255.
    write_slice("train", "a-slice_3", T1=_grey(8, 8, 51), brainmask=mask)
    element = _open(tmp_path)[0]
    assert element["image"].shape == (8, 8, 1) and element["image"].dtype == np.float32
    np.testing.assert_array_equal(element["brain_mask"], mask > 0)
    np.testing.assert_allclose(element["image"][3, 3, 0], 51 / 255 * 2 - 1, atol=1e-6)
    assert np.all(element["image"][mask == 0] == -1.0)


def test_non_square_is_padded_not_stretched(tmp_path, write_slice):
    write_slice("train", "a-slice_1", T1=_grey(4, 8), brainmask=_grey(4, 8, 255))
    mask = _open(tmp_path)[0]["brain_mask"]
    np.testing.assert_array_equal(np.flatnonzero(mask.any(1)), [2, 3, 4, 5])
    assert mask[2:6].all()


@pytest.mark.parametrize("size", [4, 16, 24])
def test_masks_stay_aligned_with_the_image_at_other_sizes(tmp_path, write_slice, size):
    image = np.zeros((8, 8), np.uint8)
    image[:, 4:] = 255
    write_slice(
        "test", "a-slice_1", T1=image, brainmask=_grey(8, 8, 255), segmentation=image // 255
    )
    element = _open(tmp_path, "test", image_size=size)[0]
    np.testing.assert_array_equal(element["segmentation"], element["image"][..., 0] > 0)
    assert element["segmentation"].sum() == size * size // 2


def test_shrinking_averages(tmp_path, write_slice):
    checker = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    write_slice("train", "a-slice_1", T1=checker, brainmask=_grey(8, 8, 255))
    np.testing.assert_allclose(_open(tmp_path, image_size=4)[0]["image"], 0.0, atol=1e-6)


def test_sixteen_bit(tmp_path, write_slice):
    image = np.full((8, 8), 13107, np.uint16)
    write_slice("train", "a-slice_1", T1=image, brainmask=_grey(8, 8, 255))
    np.testing.assert_allclose(_open(tmp_path)[0]["image"], 0.2 * 2 - 1, atol=1e-6)


def test_names_that_contain_the_modality(tmp_path, write_slice):
    root = tmp_path / "T1-data" / "T1"
    for stem in ("IXI002-T1-slice_3", "IXI002-T1-slice_10"):
        write_slice("train", stem, root=root, T1=_grey(8, 8), brainmask=_grey(8, 8, 255))
        write_slice("train", stem, root=root, T2=_grey(8, 8, 9))
    source = _open(root)
    assert [record.slice for record in source.records] == [3, 10]
    assert {record.subject for record in source.records} == {"IXI002-T1"}
    assert source.records[0].id == "IXI002-T1-slice_3"
    assert source[1]["image"].max() > 0
    assert _open(root, modality="T2")[1]["image"].max() < 0


def test_missing_segmentation_means_no_truth(tmp_path, write_slice):
    write_slice("test", "a-slice_1", T1=_grey(8, 8), brainmask=_grey(8, 8, 255))
    full = _grey(8, 8, 255)
    write_slice("test", "b-slice_1", T1=_grey(8, 8), brainmask=full, segmentation=full)
    without, with_truth = _open(tmp_path, "test")
    assert not without["has_segmentation"] and not without["segmentation"].any()
    assert with_truth["has_segmentation"] and with_truth["segmentation"].all()


def test_sorted_by_subject_then_slice_number(tmp_path, write_slice):
    for stem in ("b-slice_2", "a-slice_10", "a-slice_9"):
        write_slice("train", stem, T1=_grey(8, 8), brainmask=_grey(8, 8, 255))
    assert [r.id for r in _open(tmp_path).records] == ["a-slice_9", "a-slice_10", "b-slice_2"]


def test_missing_root_and_split_say_what_to_put_where(tmp_path, write_slice):
    with pytest.raises(errors.UserError, match=r"nowhere.*brainmask"):
        _open(tmp_path / "nowhere")
    write_slice("train", "a-slice_1", T1=_grey(8, 8), brainmask=_grey(8, 8, 255))
    with pytest.raises(errors.UserError, match=r"val.*does not exist"):
        _open(tmp_path, "val")


def test_empty_folder_and_unknown_modality_list_what_is_there(tmp_path, write_slice):
    (tmp_path / "train").mkdir()
    with pytest.raises(errors.UserError, match="no slices of modality 'T1'; found: none"):
        _open(tmp_path)
    write_slice("train", "a-slice_1", FLAIR=_grey(8, 8), brainmask=_grey(8, 8, 255))
    with pytest.raises(errors.UserError, match="found: FLAIR;"):
        _open(tmp_path)


def test_missing_brain_mask_is_named(tmp_path, write_slice):
    write_slice("train", "a-slice_07", T1=_grey(8, 8))
    with pytest.raises(errors.UserError, match=r"a-slice_07-brainmask\.png' is missing"):
        _open(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "text", "empty"])
def test_corrupt_png_is_named_when_read(tmp_path, write_slice, damage):
    noise = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    folder = write_slice("train", "a-slice_1", T1=noise, brainmask=_grey(32, 32, 255))
    path = folder / "a-slice_1-T1.png"
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 4
    cut = {"truncated": len(content) - 20, "empty": 0}.get(damage, len(content))
    path.write_bytes(b"not a png" if damage == "text" else bytes(content[:cut]))
    source = _open(tmp_path)
    with pytest.raises(errors.UserError, match=r"a-slice_1-T1\.png' is not a readable PNG"):
        source[0]


@pytest.mark.parametrize("kind", ["brainmask", "segmentation"])
def test_mask_of_another_size_names_both_sizes(tmp_path, write_slice, kind):
    sizes = {"brainmask": 8, "segmentation": 8, kind: 6}
    masks = {name: _grey(side, side, 255) for name, side in sizes.items()}
    write_slice("test", "a-slice_1", T1=_grey(8, 8), **masks)
    with pytest.raises(errors.UserError, match=rf"{kind}\.png' is 6x6 px but its image.*8x8"):
        _open(tmp_path, "test")[0]


def test_subject_in_two_splits_is_refused(tmp_path, write_slice):
    full = _grey(8, 8, 255)
    write_slice("train", "a-slice_1", T1=full, brainmask=full)
    write_slice("test", "b-slice_1", T1=full, brainmask=full)
    write_slice("test_healthy", "b-slice_2", T1=full, brainmask=full)
    assert len(_open(tmp_path, "test")) == 1  # test and test_healthy may share people.
    write_slice("val", "a-slice_2", T1=full, brainmask=full)
    for split in ("train", "val"):
        with pytest.raises(errors.UserError, match="subject 'a' is in both"):
            _open(tmp_path, split)


def test_describe_counts(tmp_path, write_slice):
    full = _grey(8, 8, 255)
    for stem in ("a-slice_1", "a-slice_2", "b-slice_1"):
        write_slice("test", stem, T1=full, brainmask=full)
    assert "3 T1 slices of 2 subjects, 0 with a segmentation" in _open(tmp_path, "test").describe()
