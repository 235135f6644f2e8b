"""FLOPs of a function as it is written, from its jaxpr: nothing is compiled or run.

Counted are the products: 2 m n k of `dot_general`, 2 x output x window x input channels of
convolutions (padding counted as work), times the length of each `scan` around them. The same on
every device; `hlo_costs.py` counts what was compiled. Of a `cond` the
branch with the most FLOPs counts, of a `while` of unknown length one run.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def of(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of `function(*args)`; arrays or shapes."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), 0.0)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2.0 * math.prod(out.shape) * math.prod(left.shape[i] for i in summed)
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(out.shape) * math.prod(kernel.shape) / features
    inner = [_count(part) for part in _parts(params)]
    if name == "cond":
        return max(inner)
    return sum(inner, 0.0) * (params["length"] if name == "scan" else 1)


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
