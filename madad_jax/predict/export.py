"""A detector as files that need no code of this package: `jax.export`, weights beside.

    OUT/detector-cpu.jaxexport (-cuda, -tpu)   the compiled function, one file per device kind
    OUT/weights.safetensors                    its first argument, flat
    OUT/model.json                             inputs, outputs, preparation, thresholds
    OUT/run.py                                 how to call it: needs jax, flatbuffers, numpy,
                                               safetensors

The function is (weights, image [b,H,W,1] in [-1,1], brain_mask [b,H,W], number) -> maps; b is free,
`number` counts batches (the sampler's noise follows it, where there is any). An older JAX than the
one that wrote the files cannot read them.
"""

import hashlib
import importlib.resources
import json
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from jax import export as jax_export

from madad_jax.core import atomic_files, errors, messages, random_keys, signals, trees
from madad_jax.predict import model as model_lib

PLATFORMS = ("cpu", "cuda", "tpu")
OUTPUTS = (*signals.STORED, "reconstruction")


def write(model: model_lib.Model, out: str) -> str:
    """Writes the files; returns a line that says what.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = epath.Path(out)
    weights = flat_weights(model)
    names = {}
    for platform in PLATFORMS:
        names[platform] = f"detector-{platform}.jaxexport"
        atomic_files.write_bytes(
            folder / names[platform], export_function(model, weights, platform)
        )
    content = safetensors.numpy.save(weights)
    atomic_files.write_bytes(folder / "weights.safetensors", content)
    about = _description(model, names)
    # Files are copied one by one: weights of another export fit the function as well.
    about["weights_sha256"] = hashlib.sha256(content).hexdigest()
    # NaN is no JSON, and other programs read this.
    text = json.dumps(about, indent=1, allow_nan=False) + "\n"
    atomic_files.write_bytes(folder / "model.json", text.encode())
    script = importlib.resources.files("madad_jax.predict").joinpath("assets", "run_exported.py")
    atomic_files.write_bytes(folder / "run.py", script.read_bytes())
    count = sum(a.size for a in weights.values())
    return f"{out}: {', '.join(names.values())}, weights.safetensors ({count:,} numbers), run.py"


def flat_weights(model: model_lib.Model) -> dict[str, np.ndarray]:
    """{path: array} of all weights, as the exported function takes them."""
    tree = {"denoiser": model.params, **model.frozen}
    return {
        # safetensors writes memory as it lies. (`ascontiguousarray` gives a scalar an axis.)
        name: np.asarray(leaf, order="C")
        for name, leaf in trees.flatten(tree).items()
    }


def export_function(model: model_lib.Model, weights: dict[str, np.ndarray], platform: str) -> bytes:
    """The serialised function for one device kind; that device need not be here."""
    tree = {"denoiser": model.params, **model.frozen}
    structure = jax.tree.structure(tree)
    order = list(trees.flatten(tree))
    root = random_keys.stream(random_keys.root_key(model.parts.seed), "evaluate")

    def detect(flat, image, brain_mask, number):
        parts = jax.tree.unflatten(structure, [flat[name] for name in order])
        params = parts.pop("denoiser")
        batch = {"image": image, "brain_mask": brain_mask}
        key = jax.random.fold_in(root, number)
        found = model.parts.method.anomaly_map(params, parts, batch, key)
        return {name: found[name] for name in OUTPUTS if name in found}

    # Whoever calls it has batches of another size.
    (batch,) = jax_export.symbolic_shape("b")
    # Weights are arguments: as constants, each of the three files would hold a copy.
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights.items()}
    number = jax.ShapeDtypeStruct((), np.uint32)
    try:
        exported = jax_export.export(jax.jit(detect), platforms=[platform])(
            shapes, *model_lib.abstract_inputs(model, batch), number
        )
        return bytes(exported.serialize())
    except (ValueError, NotImplementedError) as error:
        reason = messages.shorten(str(error).strip() or type(error).__name__, 200)
        raise errors.UserError(f"export for {platform}: {reason}") from error


def _outputs(model: model_lib.Model) -> dict[str, str]:
    """The maps that this method makes, and their shapes."""
    size = model.parts.data.image_size
    spec = dict(zip(("image", "brain_mask"), model_lib.abstract_inputs(model, 1), strict=True))
    found = jax.eval_shape(
        model.parts.method.anomaly_map, model.params, model.frozen, spec, random_keys.root_key(0)
    )
    ends = {"reconstruction": ", 1] in about [-1, 1]"}
    return {k: f"float32 [b, {size}, {size}{ends.get(k, ']')}" for k in OUTPUTS if k in found}


def _description(model: model_lib.Model, names: dict[str, str]) -> dict[str, Any]:
    size = model.parts.data.image_size
    thresholds = {}
    if model.calibration is not None:
        rate = model.parts.evaluation.false_positive_rate
        for (signal, post), healthy in model.calibration.healthy.items():
            point = healthy.by_voxel_fpr(rate)
            thresholds[f"{signal}, {post}"] = {"threshold": point.threshold, "voxel_fpr": rate}
    return {
        "files": names,
        "weights": "weights.safetensors",
        "inputs": {
            "image": f"float32 [b, {size}, {size}, 1] in [-1, 1], -1 outside the brain",
            "brain_mask": f"bool [b, {size}, {size}]",
            "number": "uint32: which batch",
        },
        "outputs": _outputs(model),
        "image_size": size,
        "preparation": None if model.preparation is None else model.preparation.to_dict(),
        "thresholds": thresholds,
        "model": model.facts,
        "jax": jax.__version__,
        "readers": f"jax {jax.__version__} or newer",
        "calling_convention": jax_export.maximum_supported_calling_convention_version,
        "note": "Research software: not a medical device.",
    }
