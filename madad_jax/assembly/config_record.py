"""What of a config is written beside a result, and how older records are read.

A stage's record is a table {dotted key: value} of what its result depends on. Evaluation keys are
not in it: another threshold or sampler needs no training.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

AUTOENCODER_KEYS = ("seed", "data", "autoencoder", "log", "mesh", "matmul_precision")
# How latents reach the denoiser is no matter of the autoencoder's: both ways share one.
_LATENT_KEYS = ("data.latents", "data.latent_draws")
_DENOISER_KEYS = (
    *AUTOENCODER_KEYS,
    *_LATENT_KEYS,
    "method",
    "denoiser",
    "diffusion",
    "synthesis",
    "contrasts",
    "lesions",
    "atlas",
    "optim",
    "train",
)
# Options that came later: {section: key that is empty where the option is off}. A section that is
# off is no part of a record, so that those of earlier versions agree with it.
_OFF = {
    "atlas": "groups",
    "lesions": "bank",
    "methods.madad.pixel_head": "network.widths",
    "train.continual": "projection",
}
_LATER = ("contrasts",)  # sections that configs of earlier versions do not have
# Single keys that came later: {key: value that changes nothing, and is no part of a record}.
_UNCHANGED = {
    "methods.madad.pixel_head.contralateral": False,
    "methods.drawn_unet.contralateral": False,
    "data.neighbours": 0,
    "contrasts.missing": "learned",
    "contrasts.keep_all": 0.3,
    "contrasts.same_blocks": 0.7,
    "contrasts.hidden": 0.3,
    "contrasts.fusion": "largest",
}
_INFERENCE = "inference"  # the part of a method's own section that no training reads
# Free to change between two starts of the same run: where and how fast, not what.
_FREE = (
    "data.cache_dir",
    "data.latents_dir",
    "data.num_threads",
    "data.root",
    "mesh",
    "log.every_steps",
    "log.track",
    "log.validate_batches",
    "train.tasks",  # of the whole chain; each of its runs has none
    "train.continual.compare",
    "autoencoder.chunk",
    "autoencoder.convolution",
    "denoiser.convolution",
)

# How a network is computed and not what: {key: what runs anywhere}. The weights are those of any
# other choice, so that a run may go on, or be evaluated, with another.
EXECUTION = {
    "autoencoder.attention": "chunked",
    "autoencoder.chunk": 0,
    "autoencoder.convolution": "auto",
    "autoencoder.remat": False,
    "denoiser.attention": "chunked",
    "denoiser.convolution": "auto",
    "denoiser.remat": False,
    "denoiser.scan": False,
}
# Where weights lie. A stage is bound to what they are (`experiment.stage_inputs`).
WEIGHTS = (
    "autoencoder.checkpoint",
    "autoencoder.lpips",
    "denoiser.init",
    "features.weights",
    "lesions.bank",
)
# Where things lie on the machine of a run: nothing of a model that is handed on.
_PLACES = (
    *WEIGHTS,
    "data.root",
    "data.latents_dir",
    "data.cache_dir",
    "benchmark.run",
    "benchmark.rival_python",
)
_WATCHING = ("profile",)  # no result depends on it, and no checkpoint, digest or report holds it
# Sources that hand out the same slices in the same order, one packed from the other.
_SAME_SLICES = ("png_folder", "array_record", "tfds")
# Attention that needs a library, or a device, that not every machine has.
_NOT_EVERYWHERE = ("cudnn",)

# Keys that had another name in earlier versions, the longer ones first: {old: new}. A name
# stands for itself and for all that lies under it.
RENAMED = {
    # 0.1.0 before the rooms: settings of MAD-AD stood at the top of the config.
    "score.sigma": "map.sigma",
    "score.inside_brain": "map.inside_brain",
    "score": "methods.madad.inference.score",
    "sampler": "methods.madad.inference.sampler",
    "masking": "methods.madad.masking",
    "loss": "methods.madad.loss",
}


def plain(config: config_dict.ConfigDict) -> dict[str, Any]:
    """A ConfigDict as what comes back from its JSON, without what only watches a run."""
    record = json.loads(config.to_json())
    for name in _WATCHING:
        record.pop(name, None)
    return record


def stage_keys(
    config: config_dict.ConfigDict, on_latents: bool, on_tokens: bool = False
) -> dict[str, tuple[str, ...]]:
    """{stage: keys that its result depends on}.

    The trained detector depends on its method's own section too, and on nothing of the
    autoencoder where the method works on images. A method on tokens has a stage that trains its
    network, and both depend on `features`.
    """
    denoiser = tuple(k for k in _DENOISER_KEYS if on_latents or k != "autoencoder")
    own = (f"methods.{config.method}",)
    stages = {"autoencoder": AUTOENCODER_KEYS, "latents": AUTOENCODER_KEYS}
    if on_tokens:
        denoiser = (*denoiser, "features")
        stages["encoder"] = denoiser
    return stages | {"denoiser": (*denoiser, *own)}


def flatten(record: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The named sections as {dotted key: value}, without what is free to change."""
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if prefix in _FREE or (prefix in _LATENT_KEYS and prefix not in keys):
            return
        if prefix in _UNCHANGED and value == _UNCHANGED[prefix]:
            return
        if isinstance(value, Mapping):
            if prefix in _OFF and _is_off(value, _OFF[prefix]):
                return
            # Inference may change after training, so no record of a stage holds it.
            if prefix.startswith("methods."):
                value = {k: v for k, v in value.items() if k != _INFERENCE}
            for k, v in value.items():
                walk(f"{prefix}.{k}", v)
        else:
            out[prefix] = list(value) if isinstance(value, tuple) else value

    for key in keys:
        section, *leaf = key.split(".")
        if key in (*_OFF, *_LATER) and section not in record:
            continue
        walk(key, record[section][leaf[0]] if leaf else record[section])
    return out


def _is_off(section: Mapping[str, Any], key: str) -> bool:
    value: Any = section
    for name in key.split("."):
        value = value[name]
    return not value or value == "none"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(keys that make another result, keys of execution) whose values differ in two records.

    Keys that only the older record has were dropped since, and change nothing, apart from those
    of an option that is off now.
    """
    differ = [k for k in now if (k not in then or then[k] != now[k]) and k not in WEIGHTS]
    gone = [k for k in then if k not in now]
    differ += [k for k in gone if k in _UNCHANGED or k.startswith(tuple(f"{s}." for s in _OFF))]
    if {then.get("data.source"), now.get("data.source")} <= set(_SAME_SLICES):
        differ = [k for k in differ if k != "data.source"]
    execution = [k for k in differ if k in EXECUTION and k in then]
    return [k for k in differ if k not in EXECUTION], execution


def runs_anywhere(record: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config whose networks need nothing that a machine may lack."""
    out = dict(record)
    for name in ("autoencoder", "denoiser"):
        section = out.get(name)
        if isinstance(section, Mapping) and section.get("attention") in _NOT_EVERYWHERE:
            out[name] = {**section, "attention": EXECUTION[f"{name}.attention"]}
    return out


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config without the paths of the machine that it comes from."""
    out = dict(record)
    for key in _PLACES:
        section, name = key.split(".")
        if name in out.get(section, {}):
            out[section] = {**out[section], name: ""}
    return out


def plain_execution(record: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config with every key of execution at one value: for digests of what is computed."""
    out = dict(record)
    for key, value in EXECUTION.items():
        section, name = key.split(".")
        if name in out.get(section, {}):
            out[section] = {**out[section], name: value}
    return out


def rename_key(key: str) -> str:
    """A dotted key of any version by its name of today."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def rename_flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's record of any version by the names of today."""
    return {rename_key(key): value for key, value in table.items()}


def rename(record: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config of any version, as nested tables, by the names of today.

    The words "key=value" of `preset_values` are renamed too. What is not a run's config (other
    files of weights carry a table of their own) comes back as it was.
    """
    out: dict[str, Any] = {}

    def put(key: str, value: Any) -> None:
        section = out
        *way, leaf = rename_key(key).split(".")
        for name in way:
            section = section.setdefault(name, {})
        section[leaf] = value

    def walk(prefix: str, value: Any) -> None:
        # Empty sections stay: a table of nothing is a value like any other.
        if isinstance(value, Mapping) and value:
            for k, v in value.items():
                walk(f"{prefix}.{k}" if prefix else k, v)
        else:
            put(prefix, value)

    walk("", record)
    words = out.get("preset_values")
    if isinstance(words, list | tuple):
        pairs = (word.partition("=") for word in words)
        out["preset_values"] = [f"{rename_key(key)}={value}" for key, _, value in pairs]
    return out
