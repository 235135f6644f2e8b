"""Updates that leave the answers on earlier tasks' inputs as they are, as an optax transformation.

Gradient projection memory (Saha, ICLR 2021; One-for-More, arXiv 2502.19848): the inputs of a layer
y = W x on earlier tasks span the columns of an orthonormal P [d, r], and

    dW <- dW - P (P^T dW)

keeps W x for every x in that span. One-for-More projects the gradient, before AdamW. Adam divides
by sqrt(v) entry by entry, which turns the step back into the span, and decoupled weight decay
moves the weights there too. Here the transformation stands last in the chain and projects the
whole update (`update`); the published place is an option (`gradient`).

Kernels are (in, out), (in, parts, out) or HWIO. A linear map's rows end in a 1 (`[x; 1]`), so that
its bias moves together with its kernel. Of a convolution every tap is projected by the basis of its
channels, and its bias stays. What has no basis stays as it is: scales and shifts of normalisations,
and maps of the time step, which are the same in all tasks.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from madad_jax.core import errors, trees
from madad_jax.core.types import Params

KEY = "bases"  # in `frozen`: {path of a layer: P}
WAYS = ("none", "update", "gradient")
Bases = Mapping[str, Any]  # {path of a layer: [d, r]}


def with_projection(
    tx: optax.GradientTransformation, way: str
) -> optax.GradientTransformationExtraArgs:
    """`tx` with what it makes projected ("update"), or what it is given ("gradient"); "none": `tx`.

    The bases are an argument of its `update`, named `KEY`: they are no state of the optimiser.
    """
    if way == "none":
        return tx
    parts = {"update": (tx, project()), "gradient": (project(), tx)}[way]
    return optax.chain(*parts)


def project() -> optax.GradientTransformationExtraArgs:
    """Projects updates onto the complement of `bases`, an argument of `update`."""

    def update(updates: Params, state: Any, params: Any = None, *, bases: Bases, **unused: Any):
        del params, unused
        return complement(updates, bases), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def complement(updates: Params, bases: Bases) -> Params:
    """The updates without their parts in the span of `bases`; zeros where a layer has none."""
    flat = trees.flatten(updates)
    new = {path: jnp.zeros_like(value) for path, value in flat.items()}
    for layer, basis in bases.items():
        kernel, bias = f"{layer}/kernel", f"{layer}/bias"
        if flat[kernel].ndim == 4:
            # (h, w, in, out) -> (in, h * w * out): every tap alike.
            taps = jnp.moveaxis(flat[kernel], 2, 0)
            kept = _without(basis, taps.reshape(len(taps), -1)).reshape(taps.shape)
            new[kernel] = jnp.moveaxis(kept, 0, 2)
            continue
        rows = flat[kernel].reshape(len(flat[kernel]), -1)
        joint = jnp.concatenate([rows, flat[bias].reshape(1, -1)])
        kept = _without(basis, joint)
        new[kernel] = kept[:-1].reshape(flat[kernel].shape)
        new[bias] = kept[-1].reshape(flat[bias].shape)
    leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
    return jax.tree.unflatten(tree, [new[trees.path_string(path)] for path, _ in leaves])


def _without(basis: Any, rows: Any) -> jax.Array:
    """(I - P P^T) rows."""
    # In full float32 on an accelerator too: with shorter products a thousandth of each step would
    # stay in the span, and thousands of steps add up.
    inside = jnp.matmul(basis.T, rows, precision="highest")
    return rows - jnp.matmul(basis, inside, precision="highest").astype(rows.dtype)


def check_layers(params: Params, layers: Mapping[str, Any], method: str) -> None:
    """Raises UserError where the recorded layers are not those of the parameters at their root: a
    method that trains a second network would forget with that one."""
    known = trees.flatten(params)
    unknown = [layer for layer in layers if f"{layer}/kernel" not in known]
    if unknown:
        parts = ", ".join(sorted({path.split("/")[0] for path in known})[:4])
        raise errors.UserError(
            f"train.continual.projection: found method={method}, which trains more than a denoiser "
            f"({parts}); accepted: methods of one denoiser, or projection=none. Of madad set "
            "methods.madad.pixel_head.network.widths=() and atlas.groups=0"
        )
