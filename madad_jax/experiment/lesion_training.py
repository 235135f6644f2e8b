"""Adapters that draw lesions, trained on a few examples beside healthy slices.

The state is kept every `KEEP_EVERY` steps, and a stopped training goes on from there to the same
weights: each step folds its keys from the seed and its number.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from madad_jax.core import atomic_files, errors, json_digest, random_keys
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.data.sources import png_folder
from madad_jax.experiment import lesion_examples, lesion_plans
from madad_jax.methods import lesion_drawer, madad
from madad_jax.metrics import archives
from madad_jax.training import state as state_lib
from madad_jax.training import step as step_lib

_LOG = logging.getLogger(__name__)

FILE = "adapters.npz"
KEEP_EVERY = 100
_WHAT = "adapters that draw lesions"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How adapters are trained.

    Attributes:
      steps: of the optimiser.
      lr: of Adam.
      seed: of initial weights and draws.
    """

    steps: int = 2000
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.lr <= 0:
            raise errors.UserError(
                f"--steps, --lr: found {self.steps}, {self.lr}; accepted: at least 1, positive"
            )


def make_drawer(
    method: Any, weights: Params, frozen: Params, **settings: Any
) -> tuple[lesion_drawer.LesionDrawer, Params]:
    """(drawer, its frozen weights) on a trained detector.

    Args:
      method: of the run.
      weights, frozen: its trained and frozen weights.
      settings: fields of the drawer.

    Raises:
      UserError: another method than MAD-AD, or another network than a DiT.
    """
    if not isinstance(method, madad.MadAd):
        raise errors.UserError(
            f"--checkpoint: found a run of method={method.name}, accepted: madad, whose denoiser "
            "fills masked cells of a latent"
        )
    drawer = lesion_drawer.LesionDrawer(
        denoiser=method.denoiser,
        autoencoder=method.autoencoder,
        schedule=method.schedule,
        noise=method.noise,
        **settings,
    )
    denoiser = weights if method.pixel_head is None else weights["denoiser"]
    return drawer, {
        "denoiser": denoiser,
        "autoencoder": frozen["autoencoder"],
        "scaling_factor": frozen["scaling_factor"],
    }


def gather(
    examples: list[lesion_examples.Examples],
    source: png_folder.PngFolder,
    settings: lesion_plans.Settings,
    most: int,
) -> Batch:
    """All slices that adapters are trained on, as the drawer's loss takes them.

    Args:
      examples: one entry a type.
      source: healthy slices, at the size of the run.
      settings: decide the masks of healthy slices.
      most: healthy slices, at most.

    Raises:
      UserError: no healthy slice in whose brain a lesion fits.
    """
    images, masks = [], []
    for index in np.random.default_rng(settings.seed).permutation(len(source))[:most].tolist():
        picture = lesion_examples.read_picture(source, index)
        plan = lesion_plans.make_plan(picture, examples, settings)
        if plan is not None:
            images.append(source[index]["image"])
            masks.append(lesion_plans.resize(plan.mask.astype(np.float32), len(images[0])))
    if not images:
        raise errors.UserError(f"--input: no lesion fits into a brain of {source.describe()}")
    kinds = [n for n, one in enumerate(examples, 1) for _ in one.pictures]
    return {
        "lesion_image": np.concatenate([one.images for one in examples]),
        "lesion_mask": np.concatenate([one.masks for one in examples]).astype(np.float32),
        "lesion_type": np.array(kinds, np.int32),
        "healthy_image": np.stack(images),
        "healthy_mask": np.stack(masks),
    }


def train(
    drawer: lesion_drawer.LesionDrawer,
    frozen: Params,
    batch: Batch,
    plan: Plan,
    path: epath.PathLike,
    made_from: Mapping[str, Any],
) -> Params:
    """Trained adapters, from `path` where they are finished there, else trained to the end.

    Args:
      drawer: whose loss is minimised.
      frozen: weights that it reads.
      batch: all slices, as the drawer's loss takes them.
      plan: steps and rate.
      path: of the state.
      made_from: what the adapters depend on; a state of something else is not gone on from.

    Raises:
      UserError: a damaged file, or a loss that is not finite.
    """
    path = epath.Path(path)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(plan.lr))
    root = random_keys.root_key(plan.seed)
    first = drawer.init_adapters(random_keys.stream(root, "adapters"), frozen)
    state = state_lib.create(first, tx, ema=False)
    facts = json_digest.json_digest([made_from, plan.lr, plan.seed])
    state = _restore(path, state, facts)
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    step_fn = make_step(drawer, tx)
    begun = int(state.step)
    for step in range(begun, plan.steps):
        state, metrics = step_fn(state, frozen, arrays, root)
        if (step + 1) % KEEP_EVERY and step + 1 < plan.steps:
            continue
        values = {name: float(value) for name, value in metrics.items()}
        if not np.isfinite(values["loss"]):
            raise errors.UserError(f"--lr={plan.lr}: the loss is not finite after step {step + 1}")
        _keep(path, state, facts)
        _LOG.info("adapters: step %d of %d, loss %.4f", step + 1, plan.steps, values["loss"])
    return state.params


def make_step(
    drawer: lesion_drawer.LesionDrawer, tx: optax.GradientTransformation
) -> Callable[..., tuple[state_lib.TrainState, Metrics]]:
    """`step(state, frozen, batch, root_key) -> (state, metrics)`, compiled, state donated."""

    def step(state: state_lib.TrainState, frozen: Params, batch: Batch, root: jax.Array):
        key = random_keys.at_step(root, "train", state.step)
        gradients, metrics = step_lib.loss_and_gradients(
            drawer.loss, state.params, frozen, batch, key, 1
        )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state_lib.TrainState(state.step + 1, params, opt_state, None), metrics

    return jax.jit(step, donate_argnums=0)


def _keep(path: epath.Path, state: state_lib.TrainState, facts: str) -> None:
    leaves = jax.tree.leaves(state)
    arrays = {f"leaf_{n}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    atomic_files.write_bytes(path, archives.to_bytes({"facts": facts}, arrays))


def _restore(path: epath.Path, state: state_lib.TrainState, facts: str) -> state_lib.TrainState:
    """The state in the file; `state` where there is none, or one that was made from other things.

    Raises UserError for a damaged file.
    """
    if not path.exists():
        return state
    leaves, structure = jax.tree.flatten(state)
    with archives.open_bytes(path.read_bytes(), str(path), _WHAT) as (meta, arrays):
        if meta["facts"] != facts:
            return state
        found = [jnp.asarray(arrays[f"leaf_{n}"]) for n in range(len(leaves))]
    known = jax.tree.unflatten(structure, found)
    _LOG.info("adapters: found at step %d", int(known.step))
    return known
