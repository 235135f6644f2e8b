"""Heads that keep their skull are seen, however they are cut; stripped brains too."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import brain_mask, builtin_mask, skull
from tests.scans import cases

VOXEL = 3.0
# Of brain, fluid, bone and scalp; the brain's own contrast is turned round where `brain` is below
# 0.
CONTRASTS = {
    "T1": (1.0, 0.2, 0.05, 0.8),
    "T2": (-1.0, 1.1, 0.08, 0.5),
    "FLAIR": (0.9, 0.1, 0.05, 0.6),
}


@functools.lru_cache
def head(contrast="T1"):
    """(a head in its scalp with air 0, its brain), voxels of 3 mm."""
    grid = cases.box((VOXEL,) * 3)
    image, brain, _ = cases.see(grid)
    image, brain = np.pad(image, 8), np.pad(brain, 8)
    tissue, fluid, bone, scalp = CONTRASTS[contrast]
    unit = image / 1000.0
    unit = tissue * unit if tissue > 0 else np.maximum(1.15 - unit, 0.1)
    away = ndimage.distance_transform_edt(~brain) * VOXEL
    # The neck, so that a head is larger than its brain at the bottom too.
    layers = [away <= 20.0, away <= 13.0, away <= 5.0, brain]
    data = np.select(layers[::-1], [unit, fluid, bone, scalp], 0.0)
    noise = np.random.default_rng(0).normal(0.0, 0.02, data.shape)
    return np.where(data > 0, np.maximum(1000 * (data + noise), 1.0), 0.0), brain


def scan(data, scale=1.0):
    return cases.volume(data, np.diag([VOXEL * scale] * 3 + [1.0]))


def levels(brain):
    """Heights at which a head is cut."""
    found = np.flatnonzero(brain.any((0, 1)))
    return np.linspace(found[0] + 7, found[-1] - 10, 5).astype(int)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_slab_of_a_head_is_not_a_stripped_brain(contrast):
    data, brain = head(contrast)
    for level in levels(brain):
        for part in (data[:, :, level:], np.pad(data[:, :, level:], 8)):
            assert not skull.is_stripped(scan(part))


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.5])
def test_a_small_head_is_not_a_stripped_brain(scale):
    assert not skull.is_stripped(scan(head()[0], scale))


def test_a_tight_box_around_the_brain_is_not_a_stripped_brain():
    data, brain = head()
    box = ndimage.find_objects(ndimage.binary_dilation(brain, iterations=2).astype(int))[0]
    assert not skull.is_stripped(scan(data[box], 0.8))


def test_bone_that_was_set_to_zero_is_still_a_skull():
    data, brain = head()
    cut = np.where(data > 150, data, 0)
    for level in levels(brain)[:3]:
        assert not skull.is_stripped(scan(cut[:, :, level:]))


def test_noisy_air_in_a_frame_of_zeros_is_not_a_stripped_brain():
    data, brain = head()
    noise = np.random.default_rng(0).random(data.shape) * 20 + 1
    part = (data + noise)[:, :, levels(brain)[3] :]
    assert not skull.is_stripped(scan(np.pad(part, 8), 0.9))


@pytest.mark.parametrize("voxels", [7, 8])
def test_a_small_blurred_head_with_some_of_its_air_is_not_a_stripped_brain(voxels):
    """A newborn's, whose bone the blur has filled; air is noise near by and 0 further off."""
    data, _ = head()
    near = ndimage.distance_transform_edt(data == 0) <= voxels
    noise = np.random.default_rng(0).random(data.shape) * 20 + 1
    part = np.where(near, ndimage.gaussian_filter(data, 2.5) + noise, 0.0)
    assert not skull.is_stripped(scan(part, 0.6))


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("more", [0, 1])
def test_stripped_brains_of_every_contrast(contrast, more):
    data, brain = head(contrast)
    mask = ndimage.binary_dilation(brain, iterations=more) if more else brain
    only = np.where(mask, data, 0.0)
    assert skull.is_stripped(scan(only))
    assert skull.is_stripped(scan(only[:, :, levels(brain)[0] :]))
    box = ndimage.find_objects(mask.astype(int))[0]
    assert skull.is_stripped(scan(only[box]))


def test_white_matter_as_dark_as_air_is_no_air():
    """A stripped T2 whose fluid is so bright that most of the brain is dark."""
    data, brain = head("T2")
    away = ndimage.distance_transform_edt(brain) * VOXEL
    bright = np.where(away <= 6.0, 8000.0, data)
    assert skull.is_stripped(scan(np.where(brain, bright, 0.0)))


@pytest.mark.parametrize("background", [0.0, -4.0, -1024.0])
def test_a_stripped_brain_may_lie_in_any_constant(background):
    data, brain = head()
    score = (data - data[brain].mean()) / data[brain].std()
    volume = scan(np.where(brain, score, background))
    assert skull.find_background(volume.data) == background
    mask, warnings = brain_mask.find(volume)
    assert cases.dice(mask, brain) > 0.999
    assert warnings[0].endswith(f"the brain is where the scan is not {background:g}")
    np.testing.assert_array_equal(brain_mask.find(volume, "nonzero")[0], mask)


def test_auto_asks_the_network_about_a_slab_and_names_the_way_out(monkeypatch):
    data, brain = head()
    upper = (slice(None), slice(None), slice(levels(brain)[2], None))
    volume = scan(data[upper])
    monkeypatch.setattr(builtin_mask, "find", lambda volume: brain[upper])
    mask, warnings = brain_mask.find(volume)
    np.testing.assert_array_equal(mask, brain[upper])
    assert warnings == ["the scan shows a part of the brain: it ends at the bottom"]
    # Whoever has the network in his own process says so; `data` is what it sees.
    here = brain_mask.find(volume, extract_brain=lambda data: (data == volume.data) & brain[upper])
    np.testing.assert_array_equal(here[0], mask)

    def refuse(volume):
        raise errors.UserError("the built-in brain extraction needs the weights of deepbet")

    monkeypatch.setattr(builtin_mask, "find", refuse)
    for finder in (None, refuse):
        with pytest.raises(errors.UserError, match=r"--brain_mask=nonzero.*--brain_mask=given"):
            brain_mask.find(volume, extract_brain=finder)


def test_nonzero_says_that_it_takes_a_head_for_brain():
    data, brain = head()
    for part, expected in ((data, True), (np.where(brain, data, 0.0), False)):
        warnings = brain_mask.find(scan(part), "nonzero")[1]
        assert any("all for brain" in text for text in warnings) == expected


def test_the_sides_on_which_a_brain_is_cut_are_named():
    _, brain = head()
    sides = np.full(3, VOXEL)
    assert brain_mask.cut_sides(brain, sides) == []
    assert brain_mask.cut_sides(brain[:, :, ::2], sides * (1, 1, 2)) == []
    middle = [n // 2 for n in brain.shape]
    for axis, names in enumerate((("left", "right"), ("back", "front"), ("bottom", "top"))):
        for part, name in ((slice(middle[axis], None), names[0]), (slice(middle[axis]), names[1])):
            index = [slice(None)] * 3
            index[axis] = part
            assert brain_mask.cut_sides(brain[tuple(index)], sides) == [name]
