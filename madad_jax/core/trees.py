"""Array trees by path: names of leaves, element types and shapes."""

from typing import Any

import jax
import numpy as np


def path_string(path: tuple[Any, ...]) -> str:
    """A tree path as `params/block_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def signature(leaf: Any) -> str:
    """Element type and shape of an array or a `ShapeDtypeStruct`, as `float32[3,4]`."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}[{','.join(str(n) for n in np.shape(leaf))}]"


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path string.

    Raises:
      ValueError: when two leaves have the same path string (keys with a slash).
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    flat = {path_string(path): leaf for path, leaf in leaves}
    if len(flat) != len(leaves):
        raise ValueError("two leaves of the tree have the same path; do keys contain '/'?")
    return flat


def tree_signatures(tree: Any) -> dict[str, str]:
    """`{path: "float32[3,4]"}` of arrays or of their abstract values."""
    return {path: signature(leaf) for path, leaf in flatten(tree).items()}
