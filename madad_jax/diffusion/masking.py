"""Which latent cells are noised: random block masks and the brain-mask rule.

Polarity, defined here and nowhere else: `visible` is 1 where a latent cell is left
untouched and 0 where it is noised. This is the official code's polarity; the paper's
M is its complement (M = 1 - visible).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from madad_jax.core import errors


def blocks_from_scores(
    scores: Float[jax.Array, "b cells"],
    ratio: Float[jax.Array, " b"],
    rows: Int[jax.Array, "*#b"],
    columns: Int[jax.Array, "*#b"],
    shape: tuple[int, int],
) -> Float[jax.Array, "b h w"]:
    """`visible` from random scores: of the n blocks of rows x columns cells, floor(n(1-ratio))
    with the lowest scores stay visible (official code: a shuffle; here: ranks).

    The block sides may be traced, so that one compiled step serves every size: block
    (i, j) takes score i * (w / columns) + j, and scores beyond the n-th rank last.
    """
    h, w = shape
    batch = scores.shape[0]
    rows = jnp.broadcast_to(rows, (batch,))[:, None]
    columns = jnp.broadcast_to(columns, (batch,))[:, None]
    cell = jnp.arange(h * w)[None, :]
    count = (h // rows) * (w // columns)
    # Scores beyond the number of blocks sort last and are never among the visible.
    ranked = jnp.where(cell < count, scores, jnp.inf)
    # Argsort twice gives ranks. A shuffle of `count` blocks would need a static size.
    rank = jnp.argsort(jnp.argsort(ranked, axis=-1), axis=-1)
    kept = rank < jnp.floor(count * (1.0 - ratio[:, None]))
    block = (cell // w // rows) * (w // columns) + (cell % w) // columns
    return jnp.take_along_axis(kept, block, axis=-1).reshape(batch, h, w).astype(jnp.float32)


def draw_visible(
    key: jax.Array,
    shape: tuple[int, int, int],
    *,
    max_ratio: float,
    sides: tuple[int, ...],
    probabilities: tuple[float, ...],
    per: str = "batch",
) -> Float[jax.Array, "b h w"]:
    """Random block masks: ratio ~ U(0, max_ratio) a sample; block sides drawn for the two
    axes independently from `sides`, once a batch (official code) or once a sample.

    Raises UserError when a side does not divide the latent or the lists disagree.
    """
    check_sides(shape[1:], sides, probabilities, per)
    batch, h, w = shape
    k_ratio, k_rows, k_columns, k_scores = jax.random.split(key, 4)
    # One draw broadcasts over the batch, as the official code draws once a batch.
    drawn = (1,) if per == "batch" else (batch,)
    table, p = jnp.asarray(sides), jnp.asarray(probabilities)
    rows = jax.random.choice(k_rows, table, drawn, p=p)
    columns = jax.random.choice(k_columns, table, drawn, p=p)
    ratio = jax.random.uniform(k_ratio, (batch,), maxval=max_ratio)
    scores = jax.random.uniform(k_scores, (batch, h * w))
    return blocks_from_scores(scores, ratio, rows, columns, (h, w))


def check_sides(
    latent: tuple[int, int], sides: tuple[int, ...], probabilities: tuple[float, ...], per: str
) -> None:
    """Raises UserError when the mask options cannot be used on a latent of this size."""
    if per not in ("batch", "sample"):
        raise errors.UserError(f"masking.per: found {per!r}, accepted: batch, sample")
    # `jax.random.choice` would not complain of probabilities that do not sum to 1.
    if len(sides) != len(probabilities) or not np.isclose(sum(probabilities), 1.0):
        raise errors.UserError(
            f"masking.probabilities: found {probabilities}, must be {len(sides)} numbers "
            f"that sum to 1, one for each of masking.sides {sides}"
        )
    bad = [s for s in sides if latent[0] % s or latent[1] % s]
    if bad:
        raise errors.UserError(
            f"masking.sides: {bad} do not divide the latent of {latent[0]}x{latent[1]} cells"
        )


def outside_brain(
    brain_mask: Bool[jax.Array, "b H W"] | Float[jax.Array, "b H W"],
    shape: tuple[int, int],
    *,
    cells: int,
    min_fraction: float,
) -> Float[jax.Array, "b h w"]:
    """1 where a latent cell counts as outside the brain, and is therefore never noised.

    Squares of `cells` x `cells` latent cells are outside when less than `min_fraction`
    of their pixels are brain (official code: 2 cells = 16 pixels, 0.9, strictly less).
    Raises UserError when the squares do not tile the latent.
    """
    h, w = shape
    batch, height, width = brain_mask.shape
    if h % cells or w % cells or height % h or width % w:
        raise errors.UserError(
            f"masking.brain_cells: {cells} does not tile a latent of {h}x{w} cells "
            f"under an image of {height}x{width}"
        )
    squares = brain_mask.astype(jnp.float32).reshape(
        batch, h // cells, cells * height // h, w // cells, cells * width // w
    )
    outside = (squares.mean((2, 4)) < min_fraction).astype(jnp.float32)
    # Back to single cells: the rule decides for squares, the masks are of cells.
    return outside.repeat(cells, 1).repeat(cells, 2)


def keep_outside(
    visible: Float[jax.Array, "b h w"], outside: Float[jax.Array, "b h w"]
) -> Float[jax.Array, "b h w"]:
    """`visible` forced to 1 outside the brain."""
    return jnp.maximum(visible, outside)
