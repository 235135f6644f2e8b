"""The order of hooks, and what the hooks of `train` do with a fake trainer."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from madad_jax.checkpoints import reader
from madad_jax.core import errors
from madad_jax.devices import mesh
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import loop, metric_log, trainer
from madad_jax.training import state as state_lib


def _state(step):
    return state_lib.TrainState(jnp.int32(step), {"w": jnp.float32(step)}, (), None)


def _run(start, steps, hooks):
    """The number of steps that a loop has finished in the end."""
    counting = loop.Loop("toy", lambda s: (_state(s.step + 1), {}), start=start, steps=steps)
    for n, hook in hooks:
        counting.every(n, hook)
    return int(counting.run(_state(start)).step)


def test_hooks_come_in_order_when_due_and_at_the_last_step():
    calls = []
    hooks = [(n, lambda m, n=n: calls.append((m.step, n, m.last))) for n in (3, 1, 2)]
    assert _run(2, 5, hooks) == 5
    assert calls == [
        (3, 3, False),
        (3, 1, False),
        (4, 1, False),
        (4, 2, False),
        (5, 3, True),
        (5, 1, True),
        (5, 2, True),
    ]


def test_a_finished_loop_takes_no_step():
    assert _run(5, 5, [(1, lambda m: pytest.fail("called"))]) == 5


class Trainer(trainer.Trainer):
    """Steps that count; the metrics of step `wrong` are not finite."""

    def __init__(self, options, wrong=None):
        self.options, self.wrong, self.steps = options, wrong, []
        self.mesh = mesh.make_mesh(devices=jax.devices()[:1])
        self.abstract = jax.eval_shape(lambda: _state(0))
        sharding = mesh.replicated(self.mesh)
        self.abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), self.abstract
        )

    def initial_state(self, first=None):
        return _state(0)

    def step(self, state, frozen, batch):
        step = int(state.step) + 1
        self.steps.append(step)
        loss = math.nan if step == self.wrong else 1.0 / step
        return _state(step), {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(1.0)}

    def validate(self, state, frozen, batches):
        return {"loss": float(state.step)}


class Iterator:
    position = 0

    def __next__(self):
        self.position += 1
        return {}

    def state(self):
        return {"position": self.position}

    def restore(self, state):
        self.position = state["position"]


def _train(folder, *, wrong=None, stop_at=None, **options):
    options = trainer.Options("toy", **{"steps": 6, "batch_size": 2, **options})
    stop = stop_lib.GracefulStop()

    def requested(step):
        stop.signal = 15 if step == stop_at else None
        return step == stop_at

    stop.requested = requested
    fake, iterator = Trainer(options, wrong), Iterator()
    with metric_log.MetricWriter(folder) as writer:
        outputs = loop.Outputs(epath.Path(folder) / "toy", {}, writer)
        state = loop.train(
            fake, {}, iterator, lambda: (), outputs, lr_fn=lambda step: 0.5 * step, stop=stop
        )
    return types.SimpleNamespace(state=state, steps=fake.steps, position=iterator.position)


def _saved(folder):
    return sorted(int(p.name) for p in (folder / "toy" / "checkpoints").iterdir() if p.is_dir())


def _lines(folder):
    return [(r["split"], r["step"]) for r in metric_log.read(folder)]


def test_a_stage_logs_validates_and_saves_when_due(tmp_path):
    done = _train(tmp_path, log_every=2, validate_every=3, checkpoint_every=4, keep_latest=9)
    assert int(done.state.step) == 6 == done.position
    assert _lines(tmp_path) == [
        ("train", 2),
        ("val", 3),
        ("train", 4),
        ("train", 6),
        ("val", 6),
    ]
    assert _saved(tmp_path) == [3, 4, 6]  # validated, due, and the last
    row = metric_log.read(tmp_path)[0]
    assert row["lr"] == 0.5 and row["loss"] == 0.5 and row["samples_per_second"] > 0


def test_the_best_checkpoint_is_that_of_the_metric_that_selects(tmp_path, monkeypatch):
    """The loss rises with the step, as when an adversary is switched on; the other one falls."""

    def validate(self, state, frozen, batches):
        return {"loss": float(state.step), "reconstruction": 1.0 / float(state.step)}

    monkeypatch.setattr(Trainer, "validate", validate)
    for name, best in (("loss", 2), ("reconstruction", 6)):
        folder = tmp_path / name
        _train(folder, validate_every=2, checkpoint_every=50, keep_latest=9, selected_by=name)
        assert reader.candidates(folder / "toy" / "checkpoints", "best")[0] == best


def test_a_signal_saves_and_the_same_call_continues(tmp_path):
    options = {"log_every": 1, "validate_every": 50, "checkpoint_every": 50}
    with pytest.raises(stop_lib.Stopped, match="toy: stopped after step 2") as stopped:
        _train(tmp_path, stop_at=2, **options)
    assert stopped.value.exit_status == 143 and _saved(tmp_path) == [2]
    done = _train(tmp_path, **options)
    assert done.steps == [3, 4, 5, 6] and done.position == 6
    assert [step for split, step in _lines(tmp_path) if split == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_is_found_one_step_late_and_never_saved(tmp_path):
    options = {"log_every": 50, "validate_every": 50, "checkpoint_every": 2}
    with pytest.raises(errors.UserError, match=r"loss of step 3 is nan; the newest .* step 2"):
        _train(tmp_path, wrong=3, **options)
    assert _saved(tmp_path) == [2]
    # At a save there is no step to wait for.
    with pytest.raises(errors.UserError, match=r"loss of step 4 is nan; the newest .* step 2"):
        _train(tmp_path, wrong=4, **options)
    assert _saved(tmp_path) == [2]


def test_saves_by_the_clock(tmp_path):
    options = {"log_every": 50, "validate_every": 50, "checkpoint_every": 50, "keep_latest": 9}
    _train(tmp_path, checkpoint_minutes=1e-9, **options)
    assert _saved(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_moments_cannot_be_changed_by_hooks():
    moment = loop.Moment(1, _state(1), {}, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        moment.step = 2
