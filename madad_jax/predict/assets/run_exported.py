"""Slices to anomaly maps with an exported detector: needs jax, flatbuffers, numpy and
safetensors, no more.

    python run.py slices.npz maps.npz

slices.npz: `image` float [n, H, W] in [0, 1] (0 outside the brain) and `brain_mask` [n, H, W];
model.json says how slices are cut and scaled. maps.npz: the maps, [n, H, W]. JAX must not be older
than the one that wrote the files ("jax" in model.json): an older one cannot read them. Exit status:
0 done; 2 and one line for what is wrong. Research software: not a medical device.
"""

import hashlib
import json
import pathlib
import sys

import jax
import numpy as np
import safetensors.numpy
from jax import export

HERE = pathlib.Path(__file__).parent


class Refused(Exception):
    """What a person can mend, in one line."""


def predict(image: np.ndarray, brain_mask: np.ndarray, batch_size: int = 16) -> dict:
    """{name: array [n, ...]} of slices [n, H, W] in [0, 1] and their brain masks.

    Raises Refused for slices of another shape, and files that are damaged or of a newer JAX.
    """
    about = _description()
    _check_slices(image, brain_mask, about["image_size"])
    weights, detect = _read_weights(about), _read_function(about)
    parts = []
    for number, start in enumerate(range(0, len(image), batch_size)):
        part = slice(start, start + batch_size)
        # The networks' range; the last batch may be shorter, as b is free.
        x = image[part].astype(np.float32)[..., None] * 2.0 - 1.0
        try:
            out = detect.call(weights, x, brain_mask[part].astype(bool), np.uint32(number))
        except Exception as error:  # jaxlib's own, by another name in each version
            raise _unreadable(about, error) from error
        parts.append({name: np.asarray(value) for name, value in out.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _description() -> dict:
    path = HERE / "model.json"
    try:
        about = json.loads(path.read_bytes())
        str(about["jax"]), str(about["weights"]), dict(about["files"]), int(about["image_size"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{path}: no description of an exported detector: {error!r}") from error
    for name in (about["weights"], *about["files"].values()):
        # A description from elsewhere may not reach outside its folder.
        if name != pathlib.Path(str(name)).name:
            raise Refused(f"{path}: found {str(name)[:80]!r}, accepted: names of files beside it")
    return about


def _read_weights(about: dict) -> dict:
    path = HERE / about["weights"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    known = about.get("weights_sha256")
    if known and hashlib.sha256(content).hexdigest() != known:
        raise Refused(f"{path}: not the weights that model.json describes; copy the folder anew")
    try:
        return safetensors.numpy.load(content)
    except Exception as error:  # safetensors has an exception of its own
        raise Refused(f"{path}: not readable: {error}") from error


def _read_function(about: dict) -> export.Exported:
    # JAX calls its backend gpu, exports are made for a platform.
    kind = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if kind not in about["files"]:
        found = ", ".join(about["files"])
        raise Refused(f"no file for {kind}, found: {found}; JAX_PLATFORMS=cpu chooses the CPU")
    path = HERE / about["files"][kind]
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    try:
        return export.deserialize(content)
    except Exception as error:  # whatever flatbuffers meets in bytes of another format
        raise _unreadable(about, error) from error


def _unreadable(about: dict, error: Exception) -> Refused:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Refused(
        f"this is jax {jax.__version__}, and jax {about['jax']} wrote the detector, which an older "
        f"one cannot read: {reason}"
    )


def _check_slices(image: np.ndarray, brain_mask: np.ndarray, side: int) -> None:
    for name, array in (("image", image), ("brain_mask", brain_mask)):
        if array.ndim != 3 or not len(array) or array.shape[1:] != (side, side):
            raise Refused(f"{name}: found shape {array.shape}, accepted: (n, {side}, {side})")
        if array.dtype.kind not in "biuf":
            raise Refused(f"{name}: found {array.dtype}, accepted: numbers")
        if not np.isfinite(array).all():
            raise Refused(f"{name}: found values that are not finite")
    if image.shape != brain_mask.shape:
        raise Refused(f"found {len(image)} images and {len(brain_mask)} brain masks")
    if image.min() < 0 or image.max() > 1:
        raise Refused(f"image: found {image.min():g} to {image.max():g}, accepted: 0 to 1")


def _read_slices(path: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as given:
            return given["image"], given["brain_mask"]
    except Exception as error:  # zipfile, zlib and numpy have ten of them for damaged bytes
        raise Refused(f"{path}: no .npz with image and brain_mask: {error!r}") from error


def main(arguments: list) -> int:
    """The exit status of the command line."""
    if len(arguments) != 2:
        print("usage: python run.py slices.npz maps.npz", file=sys.stderr)
        return 2
    try:
        maps = predict(*_read_slices(arguments[0]))
        np.savez_compressed(arguments[1], **maps)
    except (Refused, OSError) as error:
        print(f"run.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
