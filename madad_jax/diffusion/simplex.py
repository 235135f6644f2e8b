"""Simplex noise summed over octaves, for whole batches on the device (AnoDDPM, Wyatt et al. 2022).

    N(r, c) = sum_{i < octaves} persistence^i  S(2^i r / frequency, 2^i c / frequency, z)

S is three-dimensional simplex noise (Perlin 2001, as Gustavson 2005 explains it): space is cut
into tetrahedra by skewing; every lattice point has one of twelve gradients, chosen by a random
permutation; the four corners of the tetrahedron around a point add

    sum_k max(0.6 - |d_k|^2, 0)^4  (g_k . d_k)  * 32.

Published settings: 6 octaves, persistence 0.8, frequency 64 (a period in pixels of an image of
256). The sum is used as it is: its variance is not 1, and the published code does not scale it.

What differs: AnoDDPM's code evaluates OpenSimplex, another lattice with the same statistics to
the eye, at z = t with one seed for the whole batch; here every sample and channel has its own
permutation, and z is drawn at random. Batches of 1, as published, make the same distribution.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

# The midpoints of a cube's edges.
GRADIENTS = np.array(
    [(a, b, 0) for a in (1, -1) for b in (1, -1)]
    + [(a, 0, b) for a in (1, -1) for b in (1, -1)]
    + [(0, a, b) for a in (1, -1) for b in (1, -1)],
    np.float32,
)
_SIZE = 256  # of the permutation, after which the lattice repeats


def fractal(
    key: jax.Array,
    shape: tuple[int, int, int, int],
    *,
    octaves: int = 6,
    persistence: float = 0.8,
    frequency: float = 64.0,
) -> Float[jax.Array, "b h w c"]:
    """Fields of `shape` (b, h, w, c), each with a permutation of its own."""
    batch, height, width, channels = shape
    k_table, k_z = jax.random.split(key)
    # A table for each channel too, or channels would be copies of one field.
    keys = jax.random.split(k_table, batch * channels)
    tables = jax.vmap(lambda k: jax.random.permutation(k, _SIZE))(keys)
    z = jax.random.uniform(k_z, (batch * channels,), maxval=float(_SIZE))

    def field(table: jax.Array, depth: jax.Array) -> jax.Array:
        total = jnp.zeros((height, width))
        for octave in range(octaves):
            scale = 2.0**octave / frequency
            rows = (jnp.arange(height) * scale)[:, None]
            columns = (jnp.arange(width) * scale)[None]
            total += persistence**octave * noise(table, rows, columns, depth)
        return total

    fields = jax.vmap(field)(tables, z)
    return fields.reshape(batch, channels, height, width).transpose(0, 2, 3, 1)


def noise(
    table: Int[jax.Array, " n"], x: jax.Array, y: jax.Array, z: jax.Array
) -> Float[jax.Array, "..."]:
    """Simplex noise at points whose coordinates broadcast; about within [-1, 1].

    Args:
      table: a permutation of 0 .. 255.
      x, y, z: coordinates.
    """
    point = jnp.stack(jnp.broadcast_arrays(x, y, z), -1)
    # Skewed, the lattice is that of cubes; each cube is six tetrahedra along its diagonal.
    cell = jnp.floor(point + point.sum(-1, keepdims=True) / 3.0)
    inner = point - cell + cell.sum(-1, keepdims=True) / 6.0
    # The tetrahedron's corners go along the axes in the order of the inner coordinates.
    # Each axis has the number of axes that are larger as its rank. Ties are broken by a fixed
    # order, so that the three ranks are always 0, 1 and 2.
    a, b, c = inner[..., 0], inner[..., 1], inner[..., 2]
    rank = jnp.stack(
        [
            (a < b).astype(jnp.int32) + (a < c),
            (b <= a).astype(jnp.int32) + (b < c),
            (c <= a).astype(jnp.int32) + (c <= b),
        ],
        -1,
    )
    total = 0.0
    for k in range(4):
        # After k steps the k largest coordinates have moved by one.
        corner = (rank < k).astype(jnp.int32)
        offset = inner - corner + k / 6.0
        lattice = cell.astype(jnp.int32) + corner
        # 0.6 here and 32 below are Gustavson's: the sum then lies about within [-1, 1].
        falloff = jnp.maximum(0.6 - jnp.square(offset).sum(-1), 0.0) ** 4
        total += falloff * (_gradient(table, lattice) * offset).sum(-1)
    return 32.0 * total


def _gradient(table: jax.Array, lattice: Int[jax.Array, "... 3"]) -> jax.Array:
    """The gradient of a lattice point: the permutation, thrice."""
    i, j, k = (lattice[..., axis] % _SIZE for axis in range(3))
    index = table[(i + table[(j + table[k]) % _SIZE]) % _SIZE]
    return jnp.asarray(GRADIENTS)[index % len(GRADIENTS)]
