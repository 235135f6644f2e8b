"""What of a config concerns the process and not the run's parts."""

import jax
from ml_collections import config_dict

from madad_jax.core import errors


def set_precision(config: config_dict.ConfigDict) -> None:
    """Sets JAX's default precision of products. Raises UserError for an unknown one."""
    try:
        jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    except ValueError as error:
        raise errors.UserError(
            f"matmul_precision: found {config.matmul_precision!r}, accepted: default, high, highest"
        ) from error


def default_workdir(config: config_dict.ConfigDict) -> str:
    """Where a run lies when nothing else is asked for."""
    return f"runs/{config.name}"
