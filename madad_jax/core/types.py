"""Shape-annotated array types shared by every room (jaxtyping).

Letters: b batch, h w latent rows and columns, H W image rows and columns, c channels.
Shapes are checked in tests only, through jaxtyping's import hook in `tests/conftest.py`.
"""

from typing import Any, TypeAlias

import jax
from jaxtyping import Bool, Float, Int, Shaped, UInt32

Array: TypeAlias = jax.Array
Params: TypeAlias = Any  # nested dict of arrays
Batch: TypeAlias = dict[str, Any]
Metrics: TypeAlias = dict[str, Any]

__all__ = ["Array", "Batch", "Bool", "Float", "Int", "Metrics", "Params", "Shaped", "UInt32"]
