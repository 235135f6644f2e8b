"""Simplex noise against a slow computation written from the definition, point by point."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.diffusion import simplex


def slow_noise(table, point):
    """Perlin's simplex noise at one point: all lattice points near it, by brute force.

    A corner of the point's tetrahedron is found here from the barycentric coordinates of all six
    tetrahedra of its cube, not from comparisons.
    """
    point = np.asarray(point, np.float64)
    skewed = point + point.sum() / 3
    cell = np.floor(skewed).astype(int)
    inner = skewed - cell
    for order in itertools.permutations(range(3)):
        corners = [np.zeros(3, int)]
        for axis in order:
            corners.append(corners[-1] + np.eye(3, dtype=int)[axis])
        system = np.vstack([np.array(corners).T, np.ones(4)])
        weights = np.linalg.solve(system, [*inner, 1.0])
        if (weights >= -1e-9).all():
            break
    total = 0.0
    for corner in corners:
        lattice = cell + corner
        offset = point - (lattice - lattice.sum() / 6)
        i, j, k = (int(v) % 256 for v in lattice)
        index = table[(i + table[(j + table[k]) % 256]) % 256] % 12
        gradient = simplex.GRADIENTS[index]
        total += max(0.6 - offset @ offset, 0.0) ** 4 * (gradient @ offset)
    return 32 * total


def test_noise_is_the_definition_at_every_point():
    table = np.random.default_rng(0).permutation(256)
    points = np.random.default_rng(1).uniform(-20, 20, (200, 3))
    found = jax.jit(simplex.noise)(jnp.asarray(table), *jnp.asarray(points.T, jnp.float32))
    expected = [slow_noise(table, p) for p in points.astype(np.float32)]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.std(expected) > 0.2 and np.abs(expected).max() <= 1.01


def test_octaves_are_summed_with_their_persistence():
    shape, key = (2, 32, 32, 1), jax.random.key(3)

    @jax.jit
    def fields(key):
        return simplex.fractal(key, shape, octaves=3, persistence=0.8, frequency=16.0)

    found = np.asarray(fields(key))
    k_table, k_z = jax.random.split(key)
    depth = np.asarray(jax.random.uniform(k_z, (2,), maxval=256.0))
    for sample, k in enumerate(jax.random.split(k_table, 2)):
        table = np.asarray(jax.random.permutation(k, 256))
        for r, c in ((0, 0), (3, 5), (7, 2)):
            expected = sum(
                0.8**i
                * slow_noise(table, np.float32([r * 2**i / 16, c * 2**i / 16, depth[sample]]))
                for i in range(3)
            )
            assert math.isclose(found[sample, r, c, 0], expected, abs_tol=2e-3)
    field = found[..., 0]  # neighbours are alike, samples are not
    shuffled = np.random.default_rng(0).permutation(field.ravel()).reshape(field.shape)
    step = np.abs(np.diff(field, axis=2)).mean()
    assert step < 0.8 * np.abs(np.diff(shuffled, axis=2)).mean()
    assert abs(np.corrcoef(field[0].ravel(), field[1].ravel())[0, 1]) < 0.5
