import functools

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.data.cohort import anatomy, appearance, lesions, random_fields
from madad_jax.scans import template

_LEVELS = tuple(6.0 + 4.0 * k for k in range(7))
_CONTRASTS = {
    "T1": appearance.Contrast("T1", 0.22, 0.57, 0.81),
    "FLAIR": appearance.Contrast("FLAIR", 0.12, 0.62, 0.50),
}


@functools.cache
def _subject():
    grid = random_fields.Grid(192, 208.0, _LEVELS)
    return anatomy.draw(np.random.default_rng(4), template.load(), grid)


@functools.cache
def _planted(kind, size="medium", modality="T1", seed=0):
    rng = np.random.default_rng(seed)
    return lesions.plant(rng, kind, size, _subject(), _CONTRASTS[modality])


def _healthy(modality="T1"):
    subject = _subject()
    return _CONTRASTS[modality].mix(subject.fluid, subject.grey, subject.white)


@pytest.mark.parametrize("size", lesions.SIZES)
@pytest.mark.parametrize("kind", lesions.KINDS)
def test_every_kind_and_size_changes_what_its_mask_says(kind, size):
    planted = _planted(kind, size)
    subject = _subject()
    assert planted.mask.any() and not np.any(planted.mask & ~subject.brain)
    changed = np.abs(planted.clean - _healthy()) > 0.1
    assert changed[planted.mask].mean() > 0.12
    # Beyond 6 mm (mass effect: less than 2 mm of shift goes on further) nothing changes.
    reach = 40.0 if kind == "displacement" else 6.0
    pixels = round(reach / subject.grid.pixel)
    near = ndimage.distance_transform_edt(~planted.mask.any(0)) < pixels
    assert not np.any(changed & ~near)


@pytest.mark.parametrize("kind", ["stroke", "tumour", "heterotopia", "displacement"])
def test_sizes_are_in_order(kind):
    grid = _subject().grid
    largest = {
        size: max(_planted(kind, size, seed=s).mask.sum((1, 2)).max() for s in range(3))
        for size in lesions.SIZES
    }
    square_mm = {size: count * grid.pixel**2 for size, count in largest.items()}
    assert square_mm["small"] < square_mm["medium"] < square_mm["large"]
    assert square_mm["small"] < 500.0 and square_mm["large"] > 600.0


@pytest.mark.parametrize(
    ("kind", "modality", "sign"),
    [
        ("stroke", "T1", -1),
        ("stroke", "FLAIR", 1),
        ("tumour", "T1", -1),
        ("tumour", "FLAIR", 1),
        ("periventricular", "T1", -1),
        ("periventricular", "FLAIR", 1),
    ],
)
def test_intensities_go_the_way_they_do_in_patients(kind, modality, sign):
    planted = _planted(kind, modality=modality)
    tissue = planted.mask & (_subject().fluid < 0.2)
    change = (planted.clean - _healthy(modality))[tissue].mean()
    assert sign * change > 0.08


def test_heterotopia_is_of_an_ordinary_intensity():
    planted, contrast = _planted("heterotopia"), _CONTRASTS["T1"]
    inner = ndimage.binary_erosion(planted.mask, np.ones((1, 3, 3)))
    assert abs(np.median(planted.clean[inner]) - contrast.grey) < 0.05
    assert np.median(_healthy()[inner]) > contrast.grey + 0.15  # It was white matter.
    assert planted.clean.min() >= _healthy().min() - 1e-5
    assert planted.clean.max() <= _healthy().max() + 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_displacement_brings_no_new_intensities(seed):
    planted = _planted("displacement", seed=seed)
    assert planted.clean.min() >= _healthy().min() - 1e-5
    assert planted.clean.max() <= _healthy().max() + 1e-5


def test_periventricular_lesions_are_several_and_near_the_ventricles():
    planted = _planted("periventricular")
    _, count = ndimage.label(planted.mask)
    assert count >= 4
    assert np.median(_subject().ventricle[planted.mask]) < 14.0
