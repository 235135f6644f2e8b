"""The way back: weights of a run as a file that PyTorch loads, written without PyTorch.

`.safetensors` holds the state dict of the official module. `.pt` holds the same as `torch.save`
would write it (zip format): for a denoiser {"model": state dict}, as the official programs
expect, for an autoencoder the state dict.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from madad_jax.checkpoints import reader, saver
from madad_jax.convert import conversion, tensors
from madad_jax.core import atomic_files, errors

SUFFIXES = (".safetensors", ".pt", ".pth")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever written
_DICT = b"ccollections\nOrderedDict\n)R"


def read_run(folder: epath.PathLike, kind: str = "") -> tuple[str, Any]:
    """(kind, parameters as numpy) of a run's best checkpoint.

    Args:
        folder: a `--workdir`, or the `--out` of an earlier conversion.
        kind: "autoencoder", "unet" or "dit"; needed when the folder holds both stages.

    Raises:
        UserError: no checkpoint there, none of this kind, or one that PyTorch's module cannot
            express.
    """
    root = epath.Path(folder)
    stages = [s for s in ("autoencoder", "denoiser") if (root / s / "checkpoints").is_dir()]
    wanted = [s for s in stages if not kind or (s == "autoencoder") == (kind == "autoencoder")]
    if len(wanted) != 1:
        found = " and ".join(stages) or "no checkpoints"
        raise errors.UserError(
            f"--in={folder}: holds {found}; expected a run with "
            + (f"weights of kind {kind}" if kind else "one of them, or say which with --kind")
        )
    directory = root / wanted[0] / "checkpoints"
    params, config = saver.restore_ema(directory, _shapes(directory))
    params = jax.tree.map(np.asarray, params)
    if wanted[0] == "autoencoder":
        if "autoencoder" not in params:
            raise errors.UserError(f"{directory}: its checkpoint holds no autoencoder")
        return "autoencoder", params["autoencoder"]
    found = "dit" if "x_embedder" in params else "unet"
    if kind and kind != found:
        raise errors.UserError(f"--in={folder}: the denoiser is of kind {found}, not {kind}")
    section = config.get("denoiser") if isinstance(config, dict) else None
    if isinstance(section, dict) and section.get("residual_x0"):
        raise errors.UserError(
            f"--in={folder}: trained with denoiser.residual_x0, which the official network lacks"
        )
    return found, params


def _shapes(directory: epath.Path) -> dict[str, Any]:
    """The tree of the averaged weights, as shapes, from the record of a step."""
    record = None
    for step in reader.candidates(directory, "best"):
        try:
            record = reader.read_record(directory, step)
            break
        except reader.DamagedError:
            continue
    if record is None:
        raise errors.UserError(f"{directory}: no checkpoint is whole")
    try:
        return _tree(record["arrays"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.UserError(f"{directory}: its record of arrays is damaged") from error


def _tree(arrays: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, digest in arrays.items():
        first, *parents, leaf = path.split("/")
        if first != "ema_params":
            continue
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        dtype, _, lengths = digest.split("]")[0].partition("[")
        shape = tuple(int(n) for n in lengths.split(",") if n)
        node[leaf] = jax.ShapeDtypeStruct(shape, np.dtype(dtype))
    return tree


def write(out: epath.PathLike, kind: str, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `.safetensors` or `.pt`, by an atomic write.

    Raises:
        UserError: another suffix, a file that exists, or a place that cannot be written.
    """
    path = epath.Path(out)
    check_out(path)
    if path.suffix == ".safetensors":
        data = safetensors.numpy.save(dict(state), metadata={"format": "pt"})
    else:
        data = torch_zip(state, wrapper="" if kind == "autoencoder" else "model")
    atomic_files.write_bytes(path, data)


def check_out(out: epath.PathLike) -> None:
    """Raises `UserError` for another suffix or a file that exists."""
    path = epath.Path(out)
    if path.suffix not in SUFFIXES:
        raise errors.UserError(f"--out={out}: must end in {', '.join(SUFFIXES)}")
    if path.exists():
        raise errors.UserError(f"--out={out}: exists; choose another name or remove it")


def notes(kind: str, params: Any) -> list[str]:
    """What the reader of the file must know."""
    if kind == "dit":
        return ["DiT: published names, and the mask head as final_layer.mask"]
    if kind == "unet":
        return []
    state = conversion.to_official("autoencoder", params)
    settings = conversion.autoencoder_kl_weights.infer_config(state)
    keys = ("channels", "channel_mult", "num_res_blocks")
    if all(settings[key] == settings[f"decoder_{key}"] for key in keys):
        return []
    return ["the decoder is sized apart from the encoder: build LDM's two halves separately"]


def torch_zip(state: Mapping[str, np.ndarray], wrapper: str = "") -> bytes:
    """The bytes that `torch.save` would write for an OrderedDict of float32 tensors.

    Args:
        state: {key: float32 array}.
        wrapper: when given, the dict stands in another one under this key.
    """
    body = _DICT + b"("
    for number, (key, array) in enumerate(state.items()):
        body += _text(key) + _tensor(str(number), array)
    body += b"u"
    if wrapper:
        body = b"}" + _text(wrapper) + body + b"s"
    entries = {"data.pkl": b"\x80\x02" + body + b".", "byteorder": b"little"}
    entries |= {
        f"data/{n}": np.ascontiguousarray(a, "<f4").tobytes() for n, a in enumerate(state.values())
    }
    entries["version"] = b"3\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", _EARLIEST), data)
    return buffer.getvalue()


def _tensor(key: str, array: np.ndarray) -> bytes:
    """Opcodes of one contiguous float32 tensor."""
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu")
    storage += _integer(array.size) + b"tQ"
    shape, strides = (
        b"(" + b"".join(map(_integer, numbers)) + b"t"
        for numbers in (array.shape, tensors.strides_of(array.shape))
    )
    arguments = b"(" + storage + _integer(0) + shape + strides + b"\x89" + _DICT + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)
