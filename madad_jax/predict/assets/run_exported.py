"""Slices to anomaly maps with an exported detector: needs jax, flatbuffers, numpy and
safetensors, no more.

    python run.py slices.npz maps.npz

slices.npz: `image` float [n, H, W] in [0, 1] (0 outside the brain) and `brain_mask` [n, H, W];
model.json says how slices are cut and scaled. maps.npz: the maps, [n, H, W]. Research software:
not a medical device.
"""

import json
import pathlib
import sys

import jax
import numpy as np
import safetensors.numpy
from jax import export

HERE = pathlib.Path(__file__).parent


def predict(image: np.ndarray, brain_mask: np.ndarray, batch_size: int = 16) -> dict:
    """{name: array [n, ...]} of slices [n, H, W] in [0, 1] and their brain masks."""
    about = json.loads((HERE / "model.json").read_text())
    # JAX calls its backend gpu, exports are made for a platform.
    kind = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    detect = export.deserialize(bytearray((HERE / about["files"][kind]).read_bytes()))
    weights = safetensors.numpy.load((HERE / about["weights"]).read_bytes())
    parts = []
    for number, start in enumerate(range(0, len(image), batch_size)):
        part = slice(start, start + batch_size)
        # The networks' range; the last batch may be shorter, as b is free.
        x = image[part].astype(np.float32)[..., None] * 2.0 - 1.0
        out = detect.call(weights, x, brain_mask[part].astype(bool), np.uint32(number))
        parts.append({name: np.asarray(value) for name, value in out.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python run.py slices.npz maps.npz")
    with np.load(sys.argv[1], allow_pickle=False) as given:
        np.savez_compressed(sys.argv[2], **predict(given["image"], given["brain_mask"]))
