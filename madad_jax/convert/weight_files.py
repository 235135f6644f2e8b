"""Which files hold the weights: a file itself, a folder of Diffusers or Accelerate, or shards.

A folder is looked through one level deep, and nothing in it decides which path is opened: shards
that an index names must be plain names of files beside it.
"""

from typing import Any

from etils import epath

from madad_jax.core import errors, json_file, messages

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_INDEX = ".index.json"
# What training programs save beside the weights.
_BESIDE = (
    *("optimizer", "scheduler", "random_states", "rng_state", "scaler", "sampler"),
    *("training_args", "zero_pp_rank", "bf16_zero_pp_rank"),
)
_PARTS = {
    "autoencoder": ("vae", "autoencoder", "first_stage_model"),
    "unet": ("unet_ema", "unet"),
    "dit": ("transformer_ema", "transformer"),
}
_VARIANTS = ("fp16", "bf16", "fp32", "non_ema")
_MAX_SHARDS = 1000


def find(path: epath.Path, kind: str = "") -> list[epath.Path]:
    """The files to read, one or the shards of an index.

    Args:
        path: a file, an index (`*.index.json`) or a folder.
        kind: of network, where it is known; it chooses among the parts of a pipeline's folder.

    Raises:
        UserError: nothing there, several files and none to prefer, or an index that names others.
    """
    if path.is_file():
        return _shards(path) if path.name.endswith(_INDEX) else [path]
    if not path.is_dir():
        raise errors.UserError(f"--in={path}: no such file")
    try:
        names = sorted(inner.name for inner in path.iterdir())
    except OSError as error:
        raise errors.UserError(f"--in={path}: {error.strerror or error}") from error
    found = _chosen(path, [n for n in names if _is_weights(n) and (path / n).is_file()])
    if found:
        return found
    parts = [part for part in _PARTS.get(kind, ()) if (path / part).is_dir()]
    if parts:
        return find(path / parts[0])
    accepted = f"files that end in {', '.join(SUFFIXES)}"
    known = sorted({part for each in _PARTS.values() for part in each} & set(names))
    if known and not kind:
        accepted = f"one of its parts: {', '.join(f'--in={path / part}' for part in known)}"
    raise errors.UserError(f"--in={path}: a folder without weights; accepted are {accepted}")


def facts(path: epath.Path) -> dict[str, int]:
    """What `config.json` of Diffusers beside the weights tells and tensors do not: groups."""
    file = path.parent / "config.json"
    if not file.is_file():
        return {}
    found = json_file.read(file)
    groups = found.get("norm_num_groups") if isinstance(found, dict) else None
    return {"num_groups": groups} if type(groups) is int and groups > 0 else {}


def _is_weights(name: str) -> bool:
    return name.endswith((*SUFFIXES, _INDEX)) and not name.startswith((*_BESIDE, "custom_checkp"))


def _chosen(folder: epath.Path, names: list[str]) -> list[epath.Path]:
    """One file or one index of those, [] for none: `.safetensors` before pickles."""
    indices = [name for name in names if name.endswith(_INDEX)]
    single = [name for name in names if not name.endswith(_INDEX) and not _is_variant(name, names)]
    preferred = [n for n in indices if ".safetensors." in n] or indices
    if not preferred:
        # A `model.safetensors` and a `model.bin` hold the same.
        stems = {name.rpartition(".")[0].replace("pytorch_", "") for name in single}
        safe = [name for name in single if name.endswith(".safetensors")]
        preferred = safe if len(safe) == 1 and len(stems) == 1 else single
    if len(preferred) > 1:
        shown = ", ".join(messages.shorten(name, 60) for name in preferred[:10])
        raise errors.UserError(f"--in={folder}: several files of weights ({shown}); give one")
    return find(folder / preferred[0]) if preferred else []


def _is_variant(name: str, names: list[str]) -> bool:
    """Whether `model.fp16.safetensors` stands beside `model.safetensors`, which Diffusers reads."""
    stem, _, suffix = name.rpartition(".")
    plain, _, variant = stem.rpartition(".")
    return variant in _VARIANTS and f"{plain}.{suffix}" in names


def _shards(index: epath.Path) -> list[epath.Path]:
    table: Any = json_file.read_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise errors.UserError(f"{index}: no index of shards: it has no table weight_map")
    names = []
    for name in dict.fromkeys(n if isinstance(n, str) else "" for n in table.values()):
        plain = name.endswith(SUFFIXES) and name.isprintable() and len(name) <= 200
        if not plain or "/" in name or "\\" in name or name.startswith("."):
            raise errors.UserError(
                f"{index}: names the file '{messages.shorten(name)}'; accepted are names of "
                "files of weights in its own folder"
            )
        if not (index.parent / name).is_file():
            raise errors.UserError(f"{index}: names the file '{name}', which is not there")
        names.append(name)
        if len(names) > _MAX_SHARDS:
            raise errors.UserError(f"{index}: more than {_MAX_SHARDS} shards")
    return [index.parent / name for name in sorted(names)]
