"""Which slices go where, and how they are sampled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.scans import geometry, registration, slices
from tests.scans import cases

IDENTITY = registration.Transform(np.eye(4), "none")


def test_protocol_levels():
    g = geometry.Geometry()
    assert [g.level(n) for n in slices.numbers("s1", g)] == [17.0]
    assert [g.level(n) for n in slices.numbers("s2", g)] == [float(z) for z in range(20)]
    assert slices.numbers("volume", g) == list(range(189))
    assert slices.numbers("volume", g, 4) == list(range(0, 189, 4))
    with pytest.raises(errors.UserError, match="accepted: s1, s2, volume"):
        slices.numbers("s3", g)


PIXELS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40)), min_size=1, max_size=25)


@given(
    PIXELS,
    st.sampled_from(("train", "val", "test")),
    st.sampled_from(slices.PROTOCOLS),
    st.booleans(),
)
def test_lesions_never_reach_train_or_val(pixels, split, protocol, known):
    brain, lesion = (list(column) for column in zip(*pixels, strict=True))
    chosen = slices.choose(
        split, protocol, brain, lesion if known else None, healthy=False, least_brain=50
    )
    for k, into in chosen.items():
        if split != "test":
            assert known and lesion[k] == 0 and into == split
        else:
            assert into in ("test", "test_healthy")
            if into == "test_healthy":
                assert known and lesion[k] == 0
        assert brain[k] >= 50 or (known and lesion[k])


def test_s2_takes_the_largest_lesion():
    chosen = slices.choose(
        "test", "s2", [99, 99, 99, 99, 9], [0, 5, 30, 8, 0], healthy=False, least_brain=50
    )
    assert chosen == {0: "test_healthy", 2: "test"}


def test_volume_keeps_a_test_scan_together():
    chosen = slices.choose(
        "test", "volume", [99, 99, 9, 9], [0, 5, 2, 0], healthy=False, least_brain=50
    )
    assert chosen == {0: "test", 1: "test", 2: "test"}


def test_healthy_people_count_false_alarms():
    chosen = slices.choose("test", "volume", [99, 9], [0, 0], healthy=True, least_brain=50)
    assert chosen == {0: "test_healthy"}


def test_what_is_neither_lesion_nor_healthy_is_not_called_healthy():
    brain, lesion, other = [99, 99, 99], [0, 0, 5], [True, False, False]
    chosen = slices.choose(
        "test", "s1", brain, lesion, unjudged=other, healthy=False, least_brain=1
    )
    assert chosen == {1: "test_healthy", 2: "test"}
    chosen = slices.choose(
        "train", "s2", brain, lesion, unjudged=other, healthy=False, least_brain=1
    )
    assert chosen == {1: "train"}


def test_shrinking_averages_instead_of_picking():
    """Stripes of one voxel turn grey; picking every fourth would show black or white."""
    data = np.zeros((160, 160, 20), np.float32)
    data[:, ::2] = 1.0
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-80.0, -98.0, 0.0)
    volume = cases.volume(data + 1e-3, affine)
    g = geometry.Geometry(image_size=32, field_of_view=128.0)
    picture = slices.sample_images(volume.data, volume, IDENTITY, g, [80])[0]
    np.testing.assert_allclose(picture[4:-4, 4:-4], 0.5, atol=0.02)


def test_slices_with_gaps_are_thin():
    """A bright level is seen by the slice at it alone, whatever the step between slices."""
    data = np.full((64, 64, 40), 0.1, np.float32)
    data[:, :, 20] = 1.0
    affine = np.eye(4)
    affine[:3, 3] = (-32.0, -50.0, -20.0)
    volume = cases.volume(data, affine)
    g = geometry.Geometry(image_size=32, field_of_view=32.0)
    stack = slices.sample_images(volume.data, volume, IDENTITY, g, [64, 72, 80])
    np.testing.assert_allclose(stack.mean(axis=(1, 2)), [0.1, 1.0, 0.1], atol=1e-5)


def test_quantise_is_zero_outside_and_exact_at_the_ends():
    unit, brain = np.array([[0.0, 1.0, 1.0]], np.float32), np.array([[True, True, False]])
    assert slices.quantise(unit, brain, 8).tolist() == [[0, 255, 0]]
    assert slices.quantise(unit, brain, 16).tolist() == [[0, 65535, 0]]
    with pytest.raises(errors.UserError, match="bits"):
        slices.quantise(unit, brain, 9)
