"""The compiled programs of one training stage and the shape of its state."""

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.core import random_keys, trees, units
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from madad_jax.methods import base
from madad_jax.runtime import executables, watchdog
from madad_jax.training import state as state_lib
from madad_jax.training import step as step_lib

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """How long and how often; every count is in optimiser steps.

    `selected_by` is the validation metric whose lowest value makes the best checkpoint;
    `profile` the first and the last step of a trace (`step_trace.py`).
    """

    stage: str
    steps: int
    batch_size: int
    accum_steps: int = 1
    ema_decay: float = 0.0
    log_every: int = 50
    validate_every: int = 500
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    keep_latest: int = 2
    selected_by: str = "loss"
    profile: tuple[int, int] | None = None


class Trainer:
    """The compiled programs of one training stage and the shape of its state."""

    def __init__(
        self,
        method: base.Method,
        tx: Any,
        options: Options,
        *,
        batch_spec: Batch,
        mesh: jax.sharding.Mesh,
        seed: int,
    ):
        batches_lib.check_batch_size(
            options.batch_size, mesh, options.accum_steps, key=f"{options.stage} train.batch_size"
        )
        self.options = options
        self.mesh = mesh
        self.root_key = random_keys.root_key(seed)
        self._init = lambda: state_lib.create(
            method.init(random_keys.stream(self.root_key, f"{options.stage}/init"), batch_spec),
            tx,
            ema=options.ema_decay > 0,
        )
        self._devices = list(mesh.devices.flat)
        # What the traces depend on; the root key is the seed's.
        spec = trees.tree_signatures(batch_spec)
        self._reads = (method, tx, options.stage, options.ema_decay, seed, spec)
        # Shapes alone: a large model is first made where it belongs, in shards.
        abstract = executables.shapes(f"{options.stage} shapes", self._init, self._reads)
        _LOG.info("%s: %s", options.stage, parameter_rules.describe(abstract, mesh))
        self.state_shardings = parameter_rules.state_shardings(abstract, mesh)
        self.abstract = parameter_rules.with_shardings(abstract, self.state_shardings)
        replicated = mesh_lib.replicated(mesh)
        batch = {k: mesh_lib.batch_sharding(mesh) for k in batch_spec}
        self.step_fn = step_lib.make_train_step(
            method,
            tx,
            accum_steps=options.accum_steps,
            ema_decay=options.ema_decay,
            shardings=(self.state_shardings, replicated, batch, replicated),
        )
        params_s = self.state_shardings.params
        self.loss_fn = step_lib.make_loss(method, (params_s, replicated, batch, replicated))
        self.stream_key = random_keys.stream(self.root_key, options.stage)
        self._compiled: dict[str, Any] = {}

    def step(self, state: state_lib.TrainState, frozen: Params, batch: Batch) -> Any:
        """(state, metrics) after one optimiser step. The first call compiles the step, or loads
        it, and logs what it needs."""
        arguments = (state, frozen, batch, self.stream_key)
        if "step" not in self._compiled:
            started = time.monotonic()
            # The very program that runs, so that asking for its memory compiles nothing twice.
            memory = self._make("step", self.step_fn, arguments).memory_analysis()
            _LOG.info(
                "%s: step compiled in %.0f s; per device: activations and temporaries %s, all "
                "arguments %s; batches of %d slices, of which this host reads %d",
                self.options.stage,
                time.monotonic() - started,
                units.human(memory.temp_size_in_bytes),
                units.human(memory.argument_size_in_bytes),
                self.options.batch_size,
                self.options.batch_size // batches_lib.data_process(self.mesh)[1],
            )
        return self._compiled["step"](*arguments)

    def _make(self, name: str, program: Any, arguments: tuple[Any, ...]) -> Any:
        """The program `name` of this stage, made at its first use."""
        if name not in self._compiled:
            reads = (name, self._reads, self.options.accum_steps, str(self.state_shardings))
            short = f"{self.options.stage} {name.split()[0]}"
            self._compiled[name] = executables.compiled(
                short, program, arguments, reads, self._devices
            )
        return self._compiled[name]

    def initial_state(self, first: Params | None = None) -> state_lib.TrainState:
        """Fresh weights, made on the mesh in their own shards, or the weights `first`."""
        # Compiled with its shardings: no device ever holds the whole state.
        create = jax.jit(self._init, out_shardings=self.state_shardings)
        state = self._make("initial_state", create, ())()
        if first is None:
            return state
        params = jax.device_put(first, self.state_shardings.params)
        # A copy, since the step donates params and average apart.
        ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
        return dataclasses.replace(state, params=params, ema_params=ema)

    def validate(
        self, state: state_lib.TrainState, frozen: Params, batches: Iterable[Batch]
    ) -> dict:
        """Mean metrics over fixed validation batches, under draws fixed for the whole run."""
        # The same noise at every validation: losses differ by the weights alone.
        key = random_keys.stream(self.stream_key, "validate")
        total: dict[str, list[float]] = {}
        for i, batch in enumerate(batches):
            watchdog.progress(f"{self.options.stage}: validation batch {i}")
            batch = batches_lib.global_batch(self.mesh, batch)
            arguments = (state.eval_params, frozen, batch, jax.random.fold_in(key, i), state.step)
            # Validation batches may be of another size than those of training.
            name = f"validation {sorted(trees.tree_signatures(batch).items())}"
            metrics = self._make(name, self.loss_fn, arguments)(*arguments)
            for name, value in jax.device_get(metrics).items():
                # Read batch by batch: no more than one batch waits on the device.
                total.setdefault(name, []).append(float(value))
        return {name: float(np.mean(values)) for name, values in total.items()}
