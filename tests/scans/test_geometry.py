"""Pixels to millimetres and back."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.data.cohort import cohort
from madad_jax.scans import geometry, template

GEOMETRIES = st.builds(
    geometry.Geometry,
    image_size=st.integers(1, 300),
    field_of_view=st.floats(10, 400),
    centre=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    left=st.sampled_from(geometry.LEFT),
    first_level=st.floats(-100, 100),
    level_step=st.floats(0.1, 10),
)


def slice_to_mm(g, row, column, level_mm):
    """(x, y, z) [..., 3] of pixels' centres, counted from the middle of the square."""
    middle = (g.image_size - 1) / 2
    right = 1 if g.left == "left" else -1
    x = g.centre[0] + right * (column - middle) * g.pixel
    y = g.centre[1] - (row - middle) * g.pixel
    return np.stack(np.broadcast_arrays(x, y, level_mm), axis=-1)


@given(GEOMETRIES, st.floats(0, 300), st.floats(0, 300), st.floats(0, 200))
def test_there_and_back(g, row, column, number):
    points = [*slice_to_mm(g, row, column, g.level(number)), 1.0]
    found = np.linalg.inv(g.affine()) @ points
    np.testing.assert_allclose(found[:3], (number, row, column), atol=1e-6)


@given(GEOMETRIES, st.integers(0, 50), st.integers(1, 4))
def test_the_affine_says_the_same(g, first, step):
    point = g.affine(first, step) @ (2.0, 5.0, 3.0, 1.0)
    expected = slice_to_mm(g, 5.0, 3.0, g.level(first + 2 * step))
    np.testing.assert_allclose(point[:3], expected, atol=1e-6)


@given(GEOMETRIES)
def test_json_and_back(g):
    assert geometry.from_dict(json.loads(json.dumps(g.to_dict()))) == g


def test_which_way_is_up():
    g = geometry.Geometry(image_size=256, field_of_view=256.0)
    top_left = slice_to_mm(g, 0, 0, 10.0)
    # The front at the top, the subject's left (negative x) on the left.
    np.testing.assert_allclose(top_left, (-127.5, -18 + 127.5, 10.0))
    by_affine = g.affine(g.number(10.0)) @ (0, 0, 0, 1)
    np.testing.assert_allclose(by_affine[:3], (-127.5, -18 + 127.5, 10.0))
    mirrored = slice_to_mm(dataclasses.replace(g, left="right"), 0, 0, 10.0)
    np.testing.assert_allclose(mirrored, (127.5, -18 + 127.5, 10.0))


def test_subpixels_share_the_square():
    g = geometry.Geometry(image_size=4, field_of_view=100.0)
    coarse, fine = g.grid([3]), g.grid([3], subpixels=3)
    middle = fine.affine @ (0, 1, 1, 1)  # The middle one of the first pixel's nine.
    np.testing.assert_allclose(middle, coarse.affine @ (0, 0, 0, 1))


def test_levels_are_the_templates():
    g = geometry.Geometry()
    z = geometry.TEMPLATE_GRID.affine @ (0, 0, 89, 1)
    assert g.level(89) == z[2] == 17.0
    assert g.number(17.2) == 89


def test_the_template_lies_where_nilearn_puts_it():
    datasets = pytest.importorskip("nilearn.datasets")
    image = datasets.load_mni152_brain_mask(resolution=1)
    assert image.shape == geometry.TEMPLATE_GRID.shape
    np.testing.assert_array_equal(image.affine, geometry.TEMPLATE_GRID.affine)


def test_the_cohort_is_drawn_where_its_geometry_says():
    options = cohort.Options(slices=2, slice_spacing=6.0, field_of_view=208.0)
    g = geometry.from_cohort_sizes(
        image_size=64, slices=2, slice_spacing=6.0, field_of_view=208.0, middle=18.0
    )
    subject = cohort.draw_subject("train", 0, modality="T1", image_size=64, seed=0, options=options)
    brain = template.load().brain
    for k in range(2):
        rows, columns = np.indices((64, 64))
        points = slice_to_mm(g, rows, columns, g.level(k))
        index = np.round(points - geometry.TEMPLATE_GRID.affine[:3, 3]).astype(int)
        # The template module keeps [z, row from the front, column].
        inside = brain[index[..., 2], 232 - index[..., 1].clip(0, 232), index[..., 0].clip(0, 196)]
        expected, drawn = inside > 0.5, subject.brain_mask[k]
        overlap = 2 * (expected & drawn).sum() / (expected.sum() + drawn.sum())
        # A drawn person differs from the average by a few mm; a wrong centre costs more.
        assert overlap > 0.9


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image_sise": 3}, "did you mean 'image_size'"),
        ({"image_size": 0}, "above 0"),
        ({"field_of_view": float("nan")}, "finite"),
        ({"left": "top"}, "geometry.left"),
        ({"centre": [1]}, "centre"),
        ({"space": "SRI24"}, "ICBM152"),
    ],
)
def test_bad_values(values, text):
    with pytest.raises(errors.UserError, match=text):
        geometry.from_dict(values)


def test_uneven_numbers_have_no_grid():
    with pytest.raises(ValueError, match="constant step"):
        geometry.Geometry().grid([1, 2, 4])
