import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import path as mpl_path

from madad_jax.synthesis import polygons


def test_filling_is_the_even_odd_rule_of_a_known_square():
    corners = jnp.array([[1.5, 2.5], [1.5, 6.5], [4.5, 6.5], [4.5, 2.5]])
    expected = np.zeros((8, 9), bool)
    expected[2:5, 3:7] = True
    np.testing.assert_array_equal(polygons.fill(corners, (8, 9)), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_filling_agrees_with_matplotlib_on_simple_polygons(seed):
    """Star-shaped polygons do not cross themselves, where both rules must agree."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 11))
    radius = rng.uniform(4, 14, 11)
    corners = 16.3 + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    cells = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1).reshape(-1, 2)
    expected = mpl_path.Path(corners).contains_points(cells).reshape(32, 32)
    np.testing.assert_array_equal(polygons.fill(jnp.asarray(corners), (32, 32)), expected)


def test_a_figure_of_eight_is_filled_in_both_loops():
    corners = jnp.array([[0.5, 0.5], [6.5, 8.5], [6.5, 0.5], [0.5, 8.5]])
    inside = np.asarray(polygons.fill(corners, (8, 10)))
    assert inside[1, 4] and inside[5, 4] and not inside[3, 0] and not inside[3, 8]


def test_walks_lie_around_the_brain_and_their_size_follows_the_radii():
    brain = jnp.zeros((32, 32, 32), bool).at[:, 10:22, 12:20].set(True)
    small, large = (
        np.asarray(polygons.draw(jax.random.key(0), brain, 2, min_radius=r, max_radius=r))
        for r in (0.06, 0.2)
    )
    assert small.shape == (32, 2, 32, 32)
    assert large.sum() > 5 * small.sum() > 0
    rows, columns = np.nonzero(small.any((0, 1)))
    assert rows.min() >= 3 and rows.max() < 29 and columns.min() >= 5
    # About a disc of the radius, though walks cross themselves and close badly.
    area = np.median(large.sum((2, 3)))
    assert 0.2 < area / (np.pi * (0.2 * 32) ** 2) < 1.5
    assert len({shape.tobytes() for shape in large.reshape(64, -1)}) == 64


def test_no_brain_is_no_error():
    drawn = polygons.draw(jax.random.key(1), jnp.zeros((2, 16, 16), bool), 1, min_radius=0.2)
    assert np.asarray(drawn).any()
