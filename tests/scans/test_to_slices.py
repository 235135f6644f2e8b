"""One way to slices: what training's preparation refuses or makes, prediction refuses or makes."""

import dataclasses
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.predict import scan as scan_lib
from madad_jax.prepare import subject
from madad_jax.scans import geometry, preparation, slices, to_slices, volumes
from tests.scans import cases

VOXELS = ((6.0, 6.0, 6.0), (5.0, 8.0, 11.0), (10.0, 5.0, 6.0))
SMALL = geometry.Geometry(image_size=32, field_of_view=256.0)
COARSE = cases.options(geometry=SMALL, registration="none", brain_mask="nonzero", slice_step=37)
GIVEN = cases.change(COARSE, brain_mask="given")


def as_of_training(options):
    """What a run keeps of slices that were prepared with `options`."""
    fields = dataclasses.fields(options.preparation)
    values = {field.name: getattr(options.preparation, field.name) for field in fields}
    return provenance.SourcePreparation(**values, modality="T1")


def prepared(path, options, mask=""):
    """(slices, warnings) of preparation, or its refusal in words."""
    item = subject.Item("a", "a", "test", {"T1": path}, brain_mask=mask, healthy=True)
    try:
        found = subject.prepare_subject(item, options)
    except errors.UserError as error:
        return str(error)
    return {piece.number: piece for piece in found.slices}, list(found.warnings)


def predicted(path, options, mask=""):
    """(`Slices`, warnings) of prediction, or its refusal in words."""
    numbers, file = tuple(options.slice_numbers), mask
    if options.preparation.brain_mask not in ("given", "auto"):
        file = ""  # prediction puts a file that is named before every other method
    try:
        volume = volumes.read(path)
        found = scan_lib.prepare(volume, as_of_training(options), numbers, brain_mask_file=file)
    except errors.UserError as error:
        return str(error)
    return found, list(found.warnings)


def check_equal(path, options, mask=""):
    """Both sides refuse in the same words, or make the same slices; says what happened."""
    first, second = prepared(path, options, mask), predicted(path, options, mask)
    if isinstance(first, str):
        assert first == second
        return first
    pieces, warnings = first
    if not pieces:  # A cohort loses a scan without brain in silence; a scan to be scored may not.
        assert isinstance(second, str) and "no slice from z = " in second
        assert warnings[-1].startswith(("no slice of the protocol", "every slice of the protocol"))
        return "empty"
    found, others = second
    assert others == warnings
    assert [n for n, yes in zip(found.numbers, found.scored, strict=True) if yes] == list(pieces)
    for number, piece in pieces.items():
        k = found.numbers.index(number)
        np.testing.assert_array_equal(found.brain[k], piece.brain_mask)
        grey = slices.quantise(found.images[k], found.brain[k], 16).astype(int)
        # One of 65,535 levels: preparation samples fewer slices, from another first one.
        assert np.abs(grey - piece.image).max() <= 1
    return "slices"


def odd_scan(voxel, change, share, hole, seed):
    """(image, brain, affine) of the head at a few voxels, with something wrong with it."""
    grid = cases.box(voxel)
    image, brain, _ = cases.see(grid)
    image = image.astype(np.float64)
    if change == "constant":
        image = np.where(brain, 7.0, 0.0)
    elif change == "negative":
        image = np.where(brain, image - 2000.0, 0.0)
    elif change == "offset":  # Air is not 0: no mask by `nonzero`.
        image = image + 30.0
    elif change == "huge":
        image = image * 1e30
    elif change == "missing":
        share = 1.0
    inside = np.flatnonzero(brain)
    rng = np.random.default_rng(seed)
    image.flat[rng.permutation(inside)[: int(share * len(inside))]] = hole
    return image, brain, grid.affine


@st.composite
def oddities(draw):
    """(scan's arguments, axis code, where its brain mask comes from, changes of the options)."""
    scan = (
        draw(st.sampled_from(VOXELS)),
        draw(
            st.sampled_from(
                ["none", "none", "none", "constant", "negative", "offset", "huge", "missing"]
            )
        ),
        draw(st.sampled_from([0.0, 0.0, 0.004, 0.009, 0.0099, 0.0105, 0.05])),
        draw(st.sampled_from([np.nan, np.inf, -np.inf])),
        draw(st.integers(0, 3)),
    )
    code = draw(st.sampled_from(["RAS", "LPS", "PSR", "AIL", "SPR"]))
    low, high = draw(st.sampled_from([(1.0, 99.0), (0.0, 98.0), (20.0, 60.0)]))
    options = {
        "brain_mask": draw(st.sampled_from(["given", "nonzero", "auto", "template"])),
        "intensity": draw(st.sampled_from(["percentile", "zscore"])),
        "interpolation": draw(st.sampled_from(["linear", "cubic"])),
        "least_brain": draw(st.sampled_from([0.02, 0.0, 0.1, 0.17, 0.3])),
        "protocol": draw(st.sampled_from(["volume", "volume", "volume", "s1"])),
        "geometry": draw(
            st.sampled_from([SMALL, geometry.Geometry(50, 200.0), geometry.Geometry(16, 100.0)])
        ),
        "low": low,
        "high": high,
        "bits": 16,
    }
    if draw(st.integers(0, 9)) == 0:  # A field of view beside the head.
        options["geometry"] = geometry.Geometry(16, 60.0, centre=(300.0, 0.0))
    return scan, code, options


@hypothesis.settings(max_examples=25)
@hypothesis.given(oddities())
def test_both_sides_come_to_the_same_verdict_and_the_same_pixels(tmp_path_factory, odd):
    (*scan, seed), code, changes = odd
    image, brain, affine = odd_scan(*scan, seed)
    if changes["brain_mask"] == "auto" and scan[1] == "offset":
        changes["brain_mask"] = "given"  # A whole head would start the network.
    folder = tmp_path_factory.mktemp("odd")
    path = cases.save(folder / "a_T1.nii", *cases.reorder(image, affine, code))
    mask = cases.save(
        folder / "mask.nii", *cases.reorder(brain, affine, code), kind=np.uint8
    )  # fmt: skip
    outcome = check_equal(path, cases.change(COARSE, **changes), mask)
    hypothesis.event(re.sub("'.*?'", "", outcome)[:50])


@pytest.mark.parametrize("shape", [(7, 9, 9), (8, 8, 8), (1, 30, 30)])
def test_tiny_scans(tmp_path, shape):
    path = cases.save(
        tmp_path / "a.nii", np.ones(shape), np.diag([25.0, 25.0, 25.0, 1.0])
    )  # fmt: skip
    assert check_equal(path, cases.change(COARSE, bits=16)) not in ("slices", "empty")


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_one_voxel_decides_at_one_per_cent(tmp_path, hole):
    grid = cases.box(VOXELS[0])
    image, brain, _ = cases.see(grid)
    mask = cases.save(tmp_path / "mask.nii", brain, grid.affine, kind=np.uint8)
    inside = np.flatnonzero(brain)
    most = len(inside) // 100
    for count, wanted in ((most, "slices"), (most + 1, "1.0%"), (len(inside) // 20, "5.0%")):
        holed = image.copy()
        holed.flat[inside[:: len(inside) // count][:count]] = hole
        path = cases.save(tmp_path / f"{count}.nii", holed, grid.affine)
        outcome = check_equal(path, cases.change(GIVEN, bits=16), mask)
        if wanted != "slices":
            wanted = (
                f"'{path}': {wanted} of the brain's voxels are NaN or infinite, at most 1% may be"
            )
        assert outcome == wanted


def test_a_segmentation_is_no_scan(tmp_path):
    """By its values: names say nothing of a file called `patient.nii`."""
    grid = cases.box(VOXELS[0])
    _, brain, _ = cases.see(grid)
    kinds = np.where(brain, np.indices(brain.shape)[0] // 8 + 1, 0)
    path = cases.save(tmp_path / "a.nii", kinds, grid.affine)
    assert "different values inside the brain: a segmentation" in check_equal(path, COARSE)


def test_holes_of_another_modality_refuse_too(tmp_path):
    item = cases.write(tmp_path, "a", voxel=VOXELS[0], lesion=False)
    grid = cases.box(VOXELS[1])
    image, brain, _ = cases.see(grid)
    image[brain & (np.indices(image.shape).sum(0) % 20 == 0)] = np.nan
    other = cases.save(tmp_path / "a_T2.nii", image, grid.affine)
    item = dataclasses.replace(item, images={**item.images, "T2": other})
    with pytest.raises(errors.UserError, match=r"a_T2\.nii': 3\.5% of the brain's voxels are NaN"):
        subject.prepare_subject(item, COARSE)


def test_both_sides_warn_of_a_poor_overlap(tmp_path):
    moved = np.eye(4)
    moved[2, 3] = -22.0  # The head lies too low by so much.
    grid = cases.box(VOXELS[0])
    image, _, _ = cases.see(grid)
    path = cases.save(tmp_path / "a.nii", image, moved @ grid.affine)
    options = cases.change(COARSE, bits=16)
    assert check_equal(path, options) == "slices"
    _, warnings = predicted(path, options)
    assert any("after registration 'none'" in text and "Dice of 0.7" in text for text in warnings)


def test_a_slice_needs_as_many_pixels_on_both_sides():
    """0.17 of 50 x 50 px is 425, and 426 by the rounding that prepared folders were cut with."""
    size = preparation.Preparation(geometry.Geometry(50), least_brain=0.17)
    assert size.least_brain_pixels == 426
    masks = np.zeros((4, 50, 50), bool)
    for k, count in enumerate((0, 425, 426, 2500)):
        masks[k].flat[:count] = True
    assert to_slices.has_enough_brain(masks, size).tolist() == [False, False, True, True]
    none = dataclasses.replace(size, least_brain=0.0)
    assert to_slices.has_enough_brain(masks, none).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"interpolation": "lanczos"}, "interpolation: found 'lanczos', accepted: linear, cubic"),
        ({"intensity": "max"}, "intensity: found 'max', accepted: percentile, zscore"),
        ({"registration": "affine", "brain_mask": "template"}, "MNI"),
        ({"least_brain": 1.5}, "least_brain"),
        ({"low": 60.0, "high": 40.0}, "percentiles"),
    ],
)
def test_options_that_preparation_refuses_prediction_refuses(change, text):
    changed = cases.change(COARSE, **change)
    volume = cases.volume(np.ones((9, 9, 9)))
    for look in (
        changed.check,
        lambda: scan_lib.prepare(volume, as_of_training(changed), (40, 50)),
    ):
        with pytest.raises(errors.UserError, match=text):
            look()


def test_the_cohorts_scaling_is_for_prediction_alone(tmp_path):
    """The embedded cohort scales by what its slices show; preparation has no such option."""
    path = cases.write(tmp_path, "a", voxel=VOXELS[0], lesion=False).images["T1"]
    changed = cases.change(COARSE, intensity=provenance.COHORT)
    with pytest.raises(errors.UserError, match="intensity: found 'cohort'"):
        changed.check()
    found, _ = predicted(path, changed)
    assert found.scale.low == 0.0
    inside = found.images[found.brain]
    assert np.percentile(inside, 99.5) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.slow
def test_registered_scans_are_alike_too(tmp_path):
    moved = np.eye(4)
    moved[:3, 3] = (8.0, -6.0, 10.0)
    item = cases.write(tmp_path, "a", cases.box((4.0, 4.0, 4.0)), moved=moved, code="PSR")
    options = cases.change(COARSE, registration="affine", bits=16)
    assert check_equal(item.images["T1"], options) == "slices"
