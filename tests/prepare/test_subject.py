"""A scan to slices: the same head must give the same slices however it was scanned."""

import dataclasses

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.prepare import subject
from madad_jax.scans import geometry, slices, volumes
from tests.scans import cases

SMALL = geometry.Geometry(image_size=128, field_of_view=256.0)
OPTIONS = cases.options(
    protocol="volume", geometry=SMALL, registration="none", brain_mask="nonzero", slice_step=4
)
# Ten of the 48: every axis first once, all signs.
CODES = ("RAS", "LAS", "LPS", "RPI", "PSR", "AIL", "SRA", "ILP", "SPR", "ARS")


def stack(prepared):
    return {piece.number: piece for piece in prepared.slices}


@pytest.mark.parametrize("voxel", [(2.0, 2.5, 4.0), (5.0, 2.2, 2.2)])
def test_ten_orientations_give_the_same_slices(tmp_path, voxel):
    first = None
    for code in CODES:
        item = cases.write(tmp_path / code, "a", voxel=voxel, code=code)
        found = stack(subject.prepare_subject(item, OPTIONS))
        first = first or found
        assert found.keys() == first.keys()
        for number, piece in found.items():
            # Same voxels in another order: nothing but rounding may differ.
            change = piece.image.astype(int) - first[number].image
            assert np.abs(change).max() <= 1, code
            np.testing.assert_array_equal(piece.brain_mask, first[number].brain_mask)
            np.testing.assert_array_equal(piece.segmentation, first[number].segmentation)


@pytest.mark.parametrize(
    ("voxel", "turn", "most"),
    [((2.0, 2.0, 2.0), 18.0, 0.01), ((1.5, 1.5, 5.0), 0.0, 0.03), ((4.0, 1.5, 2.0), -9.0, 0.02)],
)
def test_other_voxels_and_angles_give_nearly_the_same_slices(tmp_path, voxel, turn, most):
    exact = cases.write(tmp_path / "exact", "a")
    other = cases.write(tmp_path / "other", "a", cases.box(voxel, turn), code="PIL")
    one, two = (stack(subject.prepare_subject(item, OPTIONS)) for item in (exact, other))
    common = sorted(set(one) & set(two))
    assert len(common) > 30
    brain = np.stack([one[n].brain_mask & two[n].brain_mask for n in common])
    first, second = (np.stack([s[n].image for n in common]) / 255.0 for s in (one, two))
    assert np.abs(first - second)[brain].mean() < most
    masks = [np.stack([s[n].brain_mask for n in common]) for s in (one, two)]
    assert cases.dice(*masks) > 0.96
    # One slice too many costs more, and left taken for right loses the lesions.
    assert np.abs(first[1:] - second[:-1])[brain[1:] & brain[:-1]].mean() > 2 * most
    lesions = [np.stack([s[n].segmentation for n in common]) for s in (one, two)]
    assert cases.dice(*lesions) > 0.85
    assert cases.dice(lesions[0], lesions[1][:, :, ::-1]) < 0.3


@pytest.mark.parametrize("voxel", [(2.0, 2.0, 2.0), (1.2, 1.5, 4.0)])
def test_a_lesions_volume_survives(tmp_path, voxel):
    item = cases.write(tmp_path, "a", voxel=voxel, code="LPS")
    whole = cases.change(OPTIONS, slice_step=1, geometry=geometry.Geometry())
    prepared = subject.prepare_subject(item, whole)
    pixels = sum(int(piece.segmentation.sum()) for piece in prepared.slices)
    before, after = prepared.facts["lesion_ml"], pixels / 1000.0
    assert before == pytest.approx(7.0, abs=0.5)
    assert after == pytest.approx(before, rel=0.02)
    assert after == pytest.approx(prepared.facts["lesion_ml_in_slices"], rel=0.01)


def test_affine_registration_undoes_another_head_position_and_size(tmp_path):
    moved = np.eye(4)
    angle = np.deg2rad(12.0)
    moved[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, :3] *= 1.12  # scan mm -> template mm: a smaller head than the average.
    moved[:3, 3] = (6.0, -9.0, 12.0)
    grid = cases.box((2.0, 2.0, 3.0))
    item = cases.write(tmp_path, "a", grid, moved=moved, code="PSR")
    options = cases.change(OPTIONS, registration="affine", slice_step=1)
    prepared = subject.prepare_subject(item, options)
    assert prepared.transform.overlap > 0.96
    corners = np.array([[*c, 1.0] for c in np.ndindex(2, 2, 2)]) * (100, 120, 100, 1)
    corners[:, :3] -= (50, 78, 40)
    corners = corners @ np.linalg.inv(moved).T
    there = corners @ prepared.transform.matrix.T
    assert np.linalg.norm(there - corners @ moved.T, axis=1).max() < 3.0
    # ml of the scan: registration makes this head larger by 1.12 cubed.
    facts = prepared.facts
    assert facts["volume_ratio"] == pytest.approx(1.12**3, rel=0.06)
    assert facts["lesion_ml_in_slices"] == pytest.approx(facts["lesion_ml"], rel=0.03)
    # Maps go back onto the scan: the lesion as marked there is the lesion as seen on the slices.
    volume = volumes.read(item.images["T1"])
    truth = volumes.read_labels(item.segmentation, volume) > 0
    numbers = [piece.number for piece in prepared.slices]
    for kind, original in (("brain_mask", volume.data != 0), ("segmentation", truth)):
        maps = np.stack([getattr(piece, kind) for piece in prepared.slices]).astype(np.float32)
        back = slices.to_scan(maps, numbers, volume, prepared.transform, SMALL) >= 0.5
        assert back.shape == volume.data.shape
        assert cases.dice(back, original) > 0.98, kind


def test_map_to_the_scans_space_and_compare(tmp_path):
    item = cases.write(tmp_path, "a", cases.box((1.5, 1.5, 2.0), turn=8.0), code="AIL")
    options = cases.change(OPTIONS, slice_step=1, geometry=geometry.Geometry())
    prepared = subject.prepare_subject(item, options)
    volume = volumes.read(item.images["T1"])
    truth = volumes.read_labels(item.segmentation, volume) > 0
    numbers = [piece.number for piece in prepared.slices]
    maps = np.stack([piece.segmentation for piece in prepared.slices]).astype(np.float32)
    back = slices.to_scan(maps, numbers, volume, prepared.transform, geometry.Geometry()) >= 0.5
    assert cases.dice(back, truth) >= 0.98
    out = tmp_path / "map.nii.gz"
    volumes.write_nifti(out, back, like=volume)
    native = volumes.read_labels(str(out), volume) > 0
    np.testing.assert_array_equal(native, back)


def test_other_modalities_follow_the_first_through_their_headers(tmp_path):
    item = cases.write(tmp_path, "a", voxel=(2.0, 2.0, 2.0))
    other = cases.write(tmp_path, "b", voxel=(1.6, 2.5, 3.0), code="PSR", lesion=False)
    item = dataclasses.replace(item, images={**item.images, "T2": other.images["T1"]})
    prepared = subject.prepare_subject(item, OPTIONS)
    pairs = {}
    for piece in prepared.slices:
        pairs.setdefault(piece.number, {})[piece.modality] = piece
    assert all(list(pair) == ["T1", "T2"] for pair in pairs.values())
    for pair in pairs.values():
        np.testing.assert_array_equal(pair["T1"].brain_mask, pair["T2"].brain_mask)
        change = np.abs(pair["T1"].image.astype(int) - pair["T2"].image)
        assert change[pair["T1"].brain_mask].mean() < 25
    far = np.eye(4)
    far[0, 3] = 900.0
    grid = cases.box()
    path = cases.save(tmp_path / "far.nii", cases.see(grid)[0], far @ grid.affine)
    with pytest.raises(errors.UserError, match="does not overlap"):
        subject.prepare_subject(
            dataclasses.replace(item, images={**item.images, "T2": path}), OPTIONS
        )


def test_16_bits_hold_the_same_picture(tmp_path):
    item = cases.write(tmp_path, "a")
    eight = stack(subject.prepare_subject(item, OPTIONS))
    deep = stack(subject.prepare_subject(item, cases.change(OPTIONS, bits=16)))
    for number, piece in deep.items():
        assert piece.image.dtype == np.uint16 and eight[number].image.dtype == np.uint8
        np.testing.assert_allclose(piece.image / 65535, eight[number].image / 255, atol=0.003)


def test_intensities_do_not_depend_on_the_scanners_units(tmp_path):
    item = cases.write(tmp_path, "a")
    volume = volumes.read(item.images["T1"])
    other = cases.save(tmp_path / "b_T1.nii.gz", volume.data * 7.5, volume.affine)
    one, two = (
        stack(subject.prepare_subject(dataclasses.replace(item, images={"T1": path}), OPTIONS))
        for path in (item.images["T1"], other)
    )
    for number in one:
        assert np.abs(one[number].image.astype(int) - two[number].image).max() <= 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"registration": "affin"}, "registration: found 'affin'"),
        ({"low": 99.0, "high": 1.0}, "percentiles"),
        ({"bits": 12}, "bits"),
        ({"least_brain": 1.0}, "least_brain"),
        ({"slice_step": 0}, "slice_step"),
        ({"brain_mask": "template", "registration": "affine"}, "MNI"),
    ],
)
def test_bad_options_are_found_before_any_scan(change, text):
    with pytest.raises(errors.UserError, match=text):
        cases.change(OPTIONS, **change).check()


def test_warnings_for_what_a_person_should_see(tmp_path):
    grid = cases.box()
    image, brain, _ = cases.see(grid)
    outside = np.zeros_like(brain)
    outside[:12, :12, :12] = True
    path = cases.save(tmp_path / "a_T1.nii", image, grid.affine)
    seg = cases.save(tmp_path / "a_seg.nii", outside, grid.affine, kind=np.uint8)
    item = subject.Item("a", "a", "test", {"T1": path}, segmentation=seg)
    prepared = subject.prepare_subject(item, OPTIONS)
    assert any("100% of the lesion lies outside the brain" in text for text in prepared.warnings)


@pytest.mark.parametrize(
    ("values", "labels", "unjudged", "text"),
    [
        ([255], (1,), (), "holds 255 and none of the table's labels .*accepted: labels: .255"),
        ([255], (1,), (2,), "holds 255 and none"),
        ([1], (255,), (), "holds 1 and none"),
        ([3, 4], (77,), (), ""),
    ],
)
def test_a_lesion_of_a_value_that_no_label_names_is_not_healthy(
    tmp_path, values, labels, unjudged, text
):
    grid = cases.box((4.0, 4.0, 4.0))
    image, _, lesion = cases.see(grid)
    path = cases.save(tmp_path / "a_T1.nii", image, grid.affine)
    mask = np.where(lesion, values[0], 0)
    mask[tuple(np.argwhere(lesion)[0])] = values[-1]
    seg = cases.save(tmp_path / "a_seg.nii", mask, grid.affine, kind=np.int16)
    item = subject.Item("a", "a", "train", {"T1": path}, segmentation=seg)
    options = cases.change(OPTIONS, labels=labels, unjudged=unjudged)
    if text:
        with pytest.raises(errors.UserError, match=text):
            subject.prepare_subject(item, options)
    else:
        warnings = subject.prepare_subject(item, options).warnings
        assert any("holds 3, 4 and none of the table's labels" in text for text in warnings)


def test_nan_inside_the_brain_refuses_outside_does_not(tmp_path):
    grid = cases.box()
    image, brain, _ = cases.see(grid)
    holes = np.where(brain, image, np.nan)
    path = cases.save(tmp_path / "a_T1.nii", holes, grid.affine)
    item = subject.Item("a", "a", "test", {"T1": path})
    assert subject.prepare_subject(item, OPTIONS).slices
    mask = cases.save(tmp_path / "mask.nii", brain, grid.affine, kind=np.uint8)
    image[40:60] = np.nan
    path = cases.save(tmp_path / "b_T1.nii", image, grid.affine)
    item = subject.Item("b", "b", "test", {"T1": path}, brain_mask=mask)
    with pytest.raises(errors.UserError, match="brain's voxels are NaN"):
        subject.prepare_subject(item, cases.change(OPTIONS, brain_mask="given"))


def test_a_scan_elsewhere_is_refused_without_registration(tmp_path):
    moved = np.eye(4)
    moved[1, 3] = 120.0
    grid = cases.box()
    far = geometry.VoxelGrid(grid.shape, np.linalg.inv(moved) @ grid.affine)
    item = cases.write(tmp_path, "a", far, moved=moved)
    with pytest.raises(errors.UserError, match="does not lie on ICBM152"):
        subject.prepare_subject(item, OPTIONS)


def test_brats_slices_are_its_own_voxels(tmp_path):
    """240 x 240 x 155 voxels counted from a corner become 256 x 256 pixels, whole for whole."""
    shift = np.array((119.5, -137.5, -70.0))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239.0
    index = np.indices((240, 240, 155), dtype=np.float32)
    ball = sum(
        (index[k] - c) ** 2 / r**2 for k, (c, r) in enumerate(((119, 70), (120, 85), (75, 70)))
    )
    data = np.where(ball < 1, 100 + np.random.default_rng(0).random(ball.shape) * 100, 0)
    path = cases.save(tmp_path / "b.nii", data, affine)
    item = subject.Item("b", "b", "train", {"T1": path}, healthy=True)
    options = cases.options(
        protocol="s2", registration="none", brain_mask="nonzero", shift=tuple(shift.tolist()),
        low=0.0, high=100.0, bits=16,
    )  # fmt: skip
    prepared = subject.prepare_subject(item, options)
    assert [piece.number - 72 + 70 for piece in prepared.slices] == list(range(70, 90))
    piece = prepared.slices[3]
    # x falls with the first index and columns grow with x; y falls with the second, rows too.
    plane = data[::-1, :, 73].T
    expected = np.zeros((256, 256))
    expected[8:248, 8:248] = plane / data[data > 0].max()
    np.testing.assert_allclose(piece.image / 65535.0, expected, atol=2e-4)
