"""A scan whose place is in doubt: said, kept out of training, kept in the test set."""

import dataclasses

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.prepare import card, cohorts, subject
from madad_jax.scans import geometry, registration, to_slices, volumes
from tests.scans import cases

SMALL = geometry.Geometry(image_size=32, field_of_view=256.0)
COARSE = cases.options(geometry=SMALL, registration="none", brain_mask="nonzero", slice_step=37)


def item(folder, split, *, turned=False, shift=0.0):
    """A scan in MNI space; its header turns it by 180 degrees, or moves it up."""
    grid = cases.box((6.0, 6.0, 6.0))
    image, _, _ = cases.see(grid)
    moved = np.diag([-1.0, -1.0, 1.0, 1.0]) if turned else np.eye(4)
    moved[:3, 3] += (0.0, -36.0 if turned else 0.0, shift)
    path = cases.save(folder / "a_T1.nii", image, moved @ grid.affine)
    return subject.Item("a", "a", split, {"T1": path}, healthy=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_turned_head_is_kept_out_of_training(tmp_path, split):
    right = subject.prepare_subject(item(tmp_path, split), COARSE)
    assert right.slices and not any("kept out" in text for text in right.warnings)
    wrong = subject.prepare_subject(item(tmp_path, split, turned=True), COARSE)
    assert wrong.slices == ()
    assert any("turned otherwise" in text for text in wrong.warnings)
    assert wrong.warnings[-1] == f"kept out of {split}: where its slices lie is in doubt"
    # The shapes alone have nothing against it.
    assert wrong.facts["overlap"] > 0.84 and right.facts["overlap"] > 0.96
    assert wrong.facts["agreement"] < 0.5 * right.facts["agreement"]


def test_a_turned_head_stays_in_the_test_set_and_is_marked(tmp_path):
    found = subject.prepare_subject(item(tmp_path, "test", turned=True), COARSE)
    assert found.slices and any("turned otherwise" in text for text in found.warnings)
    assert not any("kept out" in text for text in found.warnings)


def test_a_header_that_is_millimetres_off_is_said_and_kept(tmp_path):
    """Who says `none` knows; BraTS is laid by a nominal shift."""
    found = subject.prepare_subject(item(tmp_path, "train", shift=-22.0), COARSE)
    assert found.slices and any("a Dice of 0.7" in text for text in found.warnings)


def test_what_a_registration_found_and_doubts_is_kept_out(tmp_path, monkeypatch):
    poor = registration.Transform(np.eye(4), "affine", 0.8, agreement=0.6, rival=0.3)
    monkeypatch.setattr(registration, "register", lambda *_, **__: poor)
    options = cases.change(COARSE, registration="affine")
    found = subject.prepare_subject(item(tmp_path, "train"), options)
    assert found.slices == () and any("a Dice of 0.80" in text for text in found.warnings)


def test_the_dataset_card_counts_what_is_kept_out(tmp_path):
    found = subject.prepare_subject(item(tmp_path, "train", turned=True), COARSE)
    warnings = {"a": list(found.warnings), "b": ["a Dice of 0.80"], "c": []}
    summary = card.Summary(title="ours", rows=(), warnings=warnings, refused={})
    settings = {"options": COARSE.to_dict(), "modalities": ["T1"], "version": 1, "lists": "x"}
    cohort = cohorts.Cohort(title="ours", images={})
    text = card.readme(cohort, settings, summary)
    assert "warnings: 2 (see summary.md). 1 of these are kept out of train and val" in text
    settled = dataclasses.replace(summary, warnings={"b": ["a Dice of 0.80"]})
    assert "kept out" not in card.readme(cohort, settings, settled)


def test_what_was_not_measured_is_no_doubt():
    assert to_slices.find_doubts(registration.Transform(np.eye(4), "none")) == ()
    good = registration.Transform(np.eye(4), "affine", 0.95, agreement=0.6, rival=0.37)
    assert to_slices.find_doubts(good) == ()
    for change in ({"overlap": 0.84}, {"agreement": 0.39, "rival": 0.1}, {"rival": 0.52}):
        assert len(to_slices.find_doubts(dataclasses.replace(good, **change))) == 1


def test_a_refusal_says_that_the_brain_is_cut(tmp_path):
    grid = cases.box((6.0, 6.0, 6.0))
    image, _, _ = cases.see(grid)
    affine = grid.affine.copy()
    affine[2, 3] += 6.0 * 20
    volume = volumes.from_array(image[:, :, 20:], affine, source="slab.nii")
    with pytest.raises(errors.UserError, match=r"Dice of 0\.\d+.*ends at the bottom"):
        to_slices.locate(volume, COARSE.preparation)


def test_scores_on_a_background_of_middle_grey_make_the_slices_of_the_raw_scan(tmp_path):
    """Scaled from 0, a z-scored brain would be black in half of its voxels."""
    options = cases.change(COARSE, low=0.0, high=98.0)
    grid = cases.box((6.0, 6.0, 6.0))
    image, brain, _ = cases.see(grid)
    scores = np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0.0)
    found = []
    for name, data in (("raw", image), ("scores", scores), ("moved", image - 1024.0)):
        path = cases.save(tmp_path / f"{name}.nii", data, grid.affine)
        found.append(
            to_slices.to_slices(volumes.read(path), options.preparation, options.slice_numbers)
        )
    raw, scored, moved = found
    np.testing.assert_allclose(moved.images, raw.images, atol=2e-3)
    assert (moved.scale.low, raw.scale.low) == (-1024.0, 0.0)
    assert "the background is -1024, which counts as black" in moved.warnings
    assert np.abs(scored.images - raw.images)[raw.brain].mean() < 0.08
    assert any("lie at or under the background's 0" in text for text in scored.warnings)
    assert not any("black" in text for text in raw.warnings)
