"""Writes converted weights as a run keeps them, and says how to go on.

    DIR/config.json                      the config values that build the same networks
    DIR/autoencoder/checkpoints/0        {"autoencoder": params}, no discriminator
    DIR/denoiser/checkpoints/0           params
    DIR/<stage>/complete.json            present when the stage needs no more training

Both kinds may be put into one DIR, which then evaluates as it is. A stage is written whole or
not at all, and never over another one.
"""

import json
import shlex
from typing import Any

import jax.numpy as jnp
from etils import epath

from madad_jax.checkpoints import saver as saver_lib
from madad_jax.convert import conversion
from madad_jax.core import atomic_files, errors, json_file, version
from madad_jax.training import state as state_lib

STEP = 0
_SECTIONS = ("autoencoder", "denoiser")


def check_free(out: epath.PathLike, kind: str) -> None:
    """Raises `UserError` when `out` already holds this stage, or is a file."""
    folder = epath.Path(out)
    stage = folder / _stage(kind)
    if folder.exists() and not folder.is_dir():
        raise errors.UserError(f"--out={out}: a file; give a folder")
    if stage.exists() and not _is_unfinished(stage):
        raise errors.UserError(f"--out={out}: {stage} exists; choose another folder or remove it")


def _is_unfinished(stage: epath.Path) -> bool:
    """Whether a conversion was killed here: no checkpoint, nor the config that training writes."""
    if [path.name for path in stage.iterdir()] not in ([], ["checkpoints"]):
        return False
    folder = stage / "checkpoints"
    # Orbax writes a step under a longer name first.
    return not folder.exists() or all(path.name.startswith(f"{STEP}.") for path in folder.iterdir())


def write(out: epath.PathLike, converted: conversion.Converted, source: str) -> str:
    """Writes the checkpoint; returns the command that uses it.

    Args:
        out: the folder; made when missing.
        converted: weights and sizes.
        source: the file they came from, for the record.

    Raises:
        UserError: the stage exists or the folder cannot be written.
    """
    check_free(out, converted.kind)
    folder = epath.Path(out)
    stage = folder / _stage(converted.kind)
    if stage.exists():
        stage.rmtree()  # What a killed conversion left; `check_free` lets nothing else pass.
    known = _read_config(folder)
    weights = converted.params
    if converted.kind == "autoencoder":
        weights = {"autoencoder": weights}
    facts = {
        "steps": STEP,
        "version": version.VERSION,
        "converted_from": source,
        "notes": converted.notes,
    }
    config = {converted.section: converted.values, "converted_from": source}
    # A train state without an optimiser: what evaluation reads is the averaged weights.
    state = state_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params={}, opt_state={}, ema_params=weights
    )
    try:
        with saver_lib.Checkpointer(stage / "checkpoints", async_save=False) as saver:
            saver.save(STEP, state, {}, config)
            saver.wait()
        known[converted.section] = converted.values
        atomic_files.write_text(folder / "config.json", json.dumps(known, indent=1))
        if converted.complete:
            atomic_files.write_text(stage / "complete.json", json.dumps(facts, indent=1))
    except BaseException:
        if stage.exists():
            stage.rmtree()
        raise
    return next_command(folder, converted, known)


def next_command(folder: epath.Path, converted: conversion.Converted, known: dict[str, Any]) -> str:
    """What to type next: evaluate with both networks, or train with the one that is there."""
    values = {name: dict(known.get(name, {})) for name in _SECTIONS}
    have = {name: (folder / name / "complete.json").exists() for name in _SECTIONS}
    mode, workdir = "run", "runs/NEW"
    if have["denoiser"]:
        mode, workdir = "evaluate", str(folder)
        if not have["autoencoder"]:
            values["autoencoder"] = {"checkpoint": "FOLDER_OF_THE_AUTOENCODER"}
    elif have["autoencoder"]:
        values["autoencoder"]["checkpoint"] = str(folder)
    if values["denoiser"] and not have["denoiser"]:
        values["denoiser"]["init"] = str(folder)
    if have["autoencoder"]:
        values["autoencoder"]["discriminator"] = False
    words = ["python", "-m", "madad_jax.main", "--config=configs/default.py:official"]
    words += ["--config.data.root=FOLDER_OF_SLICES", f"--mode={mode}", f"--workdir={workdir}"]
    for section, keys in values.items():
        for key, value in keys.items():
            value = tuple(value) if isinstance(value, list) else value  # as JSON gives them
            words.append(f"--config.{section}.{key}={value}")
    return shlex.join(words)


def _stage(kind: str) -> str:
    return "autoencoder" if kind == "autoencoder" else "denoiser"


def _read_config(folder: epath.Path) -> dict[str, Any]:
    """The config values that an earlier conversion left in the folder."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    known = json_file.read_object(path)
    for section in _SECTIONS:
        if not isinstance(known.get(section, {}), dict):
            raise errors.UserError(f"{path}: '{section}' is no table of config values")
    return known
