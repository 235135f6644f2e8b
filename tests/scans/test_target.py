"""Registration to a template of one's own: a brain of a tenth of an adult's volume."""

import dataclasses

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import (
    brain_mask,
    geometry,
    given_template,
    preparation,
    registration,
    slices,
    target,
    to_slices,
)
from tests.scans import cases, fetal_cases


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return given_template.find(fetal_cases.write_template(tmp_path_factory.mktemp("atlas")))


@pytest.fixture(scope="module")
def options(templates):
    return preparation.Preparation(
        geometry=target.lay_slices(templates, 64, 96.0), template=templates
    )


def error_mm(found, wanted, volume):
    """Mean and largest distance over the brain."""
    points = np.argwhere(volume.data > 0)[::50]
    points = volume.affine @ np.c_[points, np.ones(len(points))].T
    away = np.linalg.norm(((found - wanted) @ points)[:3], axis=0)
    return away.mean(), away.max()


def cut(volume, options):
    numbers = slices.numbers("volume", options.geometry, 8)
    return to_slices.to_slices(volume, options, numbers)


def test_slices_of_a_moved_scan_are_those_of_the_unmoved(options):
    """Rigid and affine moves are undone within a millimetre; no check of adults says a word."""
    as_it_lies = dataclasses.replace(options, registration="none")
    still = cut(fetal_cases.volume(), as_it_lies)
    assert still.scored.sum() > 5 and still.transform.overlap > 0.97
    assert still.transform.template == "STA28.nii.gz"
    for stretch in ((1.0, 1.0, 1.0), (1.06, 0.95, 1.0)):
        moved = fetal_cases.move(stretch=stretch)
        volume = fetal_cases.volume(moved)
        found = cut(volume, options)
        mean, most = error_mm(found.transform.matrix, moved, volume)
        assert mean < 0.3 and most < 1.0
        assert cases.dice(found.brain, still.brain) > 0.97
        both = found.brain & still.brain
        assert np.abs(found.images - still.images)[both].mean() < 0.03
        # The brain mask was found without a file; nothing is in doubt.
        assert all(text.startswith(brain_mask.STRIPPED_BEFORE) for text in found.warnings)


def test_a_wrong_template_is_refused_or_in_doubt(options):
    """The header turns the head by a right angle and is taken at its word."""
    turn = fetal_cases.move(degrees=90.0, shift=(0.0, 0.0, 0.0))
    turned = fetal_cases.volume(turn)
    as_it_lies = dataclasses.replace(options, registration="none")
    assert to_slices.locate(turned, as_it_lies).doubts
    away = turned.affine.copy()
    away[2, 3] += 30.0
    with pytest.raises(errors.UserError, match=r"does not lie on STA28\.nii\.gz"):
        to_slices.locate(dataclasses.replace(turned, affine=away), as_it_lies)


def test_the_brain_of_a_template(templates):
    found = target.read(templates[0])
    # Lengths are an adult's once more: 1 / 0.45.
    assert found.scale == pytest.approx(1 / fetal_cases.SHRUNK, rel=0.01)
    _, brain, grid = registration.template_brain()
    corners = np.argwhere(brain)
    for wanted, had in ((corners.min(0), found.low), (corners.max(0), found.high)):
        mm = (grid.affine @ [*wanted, 1.0])[:3] * fetal_cases.SHRUNK + fetal_cases.PLACE
        np.testing.assert_allclose(had, mm, atol=1e-3)
    # A smooth template has less to agree in than ICBM152, of whose 1.05 nats 0.4 are asked.
    assert 0.2 < found.good_agreement < 0.5


def test_slices_lie_around_the_templates_brain(templates):
    found, seen = target.lay_slices(templates, 64, 96.0), target.read(templates[0])
    assert (found.space, found.pixel) == ("template", 1.5)
    middle = (np.array(seen.low) + seen.high)[:2] / 2
    np.testing.assert_allclose(found.centre, middle, atol=0.5)
    levels = [found.level(n) for n in slices.numbers("volume", found)]
    assert 0 <= seen.low[2] - levels[0] < 1 and 0 <= levels[-1] - seen.high[2] < 1
    assert geometry.from_dict(found.to_dict()) == found
    with pytest.raises(errors.UserError, match="protocol: found 's2'"):
        slices.numbers("s2", found)
    with pytest.raises(errors.UserError, match="field_of_view: found 60 mm, accepted: at least 8"):
        target.lay_slices(templates, 64, 60.0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda image: image + 5, "above 0 on 100% of its outermost voxels"),
        (lambda image: (image > 0) * 7, "is constant above 0"),
        (lambda image: np.where(np.indices(image.shape).sum(0) == 150, image, 0), "a brain of"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path, spoil, words):
    image, _, grid = fetal_cases.head()
    path = cases.save(tmp_path / "t.nii.gz", spoil(image), grid.affine)
    with pytest.raises(errors.UserError, match=f"^template: .*{words}"):
        target.read(given_template.find(path)[0])


def test_templates_that_lie_apart_are_refused(tmp_path):
    image, _, grid = fetal_cases.head()
    away = grid.affine.copy()
    away[0, 3] += 80.0
    for name, affine in (("A27.nii.gz", grid.affine), ("A28.nii.gz", away)):
        cases.save(tmp_path / name, image, affine)
    with pytest.raises(errors.UserError, match="lies 40 mm from the middle of all"):
        target.lay_slices(given_template.find(tmp_path), 64, 250.0)


def test_a_template_that_changed_is_refused(tmp_path):
    path = fetal_cases.write_template(tmp_path)
    found = given_template.find(path)[0]
    fetal_cases.write_template(tmp_path, factor=0.5)
    target.read.cache_clear()
    with pytest.raises(errors.UserError, match="has changed since"):
        target.read(found)
    with pytest.raises(errors.UserError, match="is not at hand; accepted: --template"):
        target.read(dataclasses.replace(found, path=""))


def test_a_whole_head_is_not_given_to_networks_for_adults(templates):
    """`auto` sees that there is more than a brain of the template's size."""
    found = target.read(templates[0])
    array, affine = fetal_cases.see()
    noise = np.random.default_rng(0).uniform(1.0, 9.0, array.shape)
    volume = cases.volume(array + noise, affine)
    with pytest.raises(errors.UserError, match="accepted: --brain_mask=given"):
        brain_mask.find(volume, target=found)
    # An adult brain is no brain of this template.
    adult = cases.volume(cases.head()[0], cases.head()[2].affine)
    _, warnings = brain_mask.find(adult, "nonzero", target=found)
    assert any("are plausible" in text for text in warnings)


def test_its_own_mask_for_scans_that_lie_in_its_space(options, templates):
    mask, _ = brain_mask.find(fetal_cases.volume(), "template", target=target.read(templates[0]))
    assert cases.dice(mask, fetal_cases.see()[0] > 0) > 0.98
    with pytest.raises(errors.UserError, match="in the template's space"):
        dataclasses.replace(options, brain_mask="template").check()
    with pytest.raises(errors.UserError, match=r"geometry\.space: found template with 0"):
        dataclasses.replace(options, template=()).check()
