import dataclasses
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from madad_jax.checkpoints import reader
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from tests.checkpoints import cases


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with the whole steps 1 and 2; copied, never changed."""
    return cases.save(tmp_path_factory.mktemp("whole") / "checkpoints", [1, 2])


@pytest.fixture
def folder(two_steps, tmp_path):
    return pathlib.Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_round_trip_over_meshes(tmp_path):
    """From 8 devices, split, to other splits and to one device: the same bits."""
    want = cases.make_state(5)
    target = cases.sharded(mesh_lib.make_mesh(1, 8, 1))
    state = jax.device_put(want, jax.tree.map(lambda x: x.sharding, target))
    with saver_lib.Checkpointer(tmp_path / "c") as saver:
        assert saver.save(5, state, {"position": (1, 2)}, {"a": {"b": None}})
    with saver_lib.Checkpointer(tmp_path / "c") as saver:
        for abstract in (cases.sharded(mesh_lib.make_mesh(2, 2, 2)), target, cases.ABSTRACT):
            got = saver.restore_latest(abstract)
            assert got.step == 5 and cases.equal(got.state, want)
            assert got.data_state == {"position": [1, 2]} and got.config == {"a": {"b": None}}
            kernel = got.state.params["blocks_0"]["mlp_fc1"]["kernel"]
            asked = abstract.params["blocks_0"]["mlp_fc1"]["kernel"].sharding
            assert len(kernel.devices()) == (1 if asked is None else 8)
            assert asked is None or kernel.sharding.is_equivalent_to(asked, 2)
        assert saver.problems == []


def _best_step(saver):
    return reader.best(saver.records(saver.all_steps()))


def test_nothing_to_restore(tmp_path):
    with saver_lib.Checkpointer(tmp_path / "c") as saver:
        assert saver.restore_latest(cases.ABSTRACT) is None
        assert saver.all_steps() == [] and _best_step(saver) is None


def test_keeps_the_newest_and_the_best(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: float("nan"), 5: 0.3, 6: 0.2}
    folder = cases.save(tmp_path / "c", range(1, 7), losses=losses, best_metric="val/loss")
    with saver_lib.Checkpointer(folder, best_metric="val/loss") as saver:
        assert saver.all_steps() == [2, 5, 6] and _best_step(saver) == 2
        saver.save(7, cases.make_state(7), {}, {}, {"val/loss": 0.05})
        saver.wait()
        assert saver.all_steps() == [6, 7] and _best_step(saver) == 7
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["6", "7"]


def test_the_best_may_be_the_highest(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.2, 4: 0.3}
    folder = cases.save(
        tmp_path / "c", losses, losses=losses, best_metric="val/loss", best_mode="max"
    )
    with saver_lib.Checkpointer(folder) as saver:
        assert saver.all_steps() == [1, 3, 4] and _best_step(saver) == 1


def _record(step, rule, **metrics):
    return reader.make_record(step, {}, {}, {}, metrics, {"metric": rule, "mode": "min"})


def test_steps_of_two_versions_are_chosen_from_by_the_newer_rule():
    old = {1: _record(1, "loss", loss=0.1), 2: _record(2, "loss", loss=0.2)}
    assert reader.best(old) == 1
    # Saved without validation: nothing but the older rule can tell.
    unknown = old | {3: _record(3, "other")}
    assert reader.best(unknown) == 1
    mixed = old | {4: _record(4, "other", loss=9.0, other=0.6), 5: _record(5, "other", other=0.5)}
    assert reader.best(mixed) == 5


def test_a_step_on_disk_is_not_written_over(folder):
    with saver_lib.Checkpointer(folder, keep_latest=5) as saver:
        assert not saver.save(2, cases.make_state(9), {}, {}, force=True)
        assert not saver.save(0, cases.make_state(9), {}, {})
        assert saver.save(0, cases.make_state(0), {}, {}, force=True)
        saver.wait()
        assert saver.all_steps() == [0, 1, 2]
        assert cases.equal(saver.restore_latest(cases.ABSTRACT).state, cases.make_state(2))


def test_donation_right_after_an_async_save(tmp_path):
    with saver_lib.Checkpointer(tmp_path / "c") as saver:
        state = cases.make_state(3)
        saver.save(3, state, {}, {})
        jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
        assert cases.equal(saver.restore_latest(cases.ABSTRACT).state, cases.make_state(3))


def test_without_average(tmp_path):
    """Evaluation finds the parameters; a run that averages from here on starts at them."""
    state = cases.make_state(4, ema=False)
    with saver_lib.Checkpointer(tmp_path / "c") as saver:
        saver.save(4, state, {}, {})
        got = saver.restore_latest(dataclasses.replace(cases.ABSTRACT, ema_params=None)).state
        assert got.ema_params is None and cases.equal(got, state)
        assert cases.equal(saver.restore_latest(cases.ABSTRACT).state.ema_params, state.params)
    params, _ = saver_lib.restore_ema(tmp_path / "c", cases.ABSTRACT.params)
    assert cases.equal(params, state.params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {**p, "extra": p["head"]}, r"extra/bias is missing in the checkpoint"),
        (lambda p: {"head": p["head"]}, r"float32\[32,64\] in the checkpoint and missing in"),
        (
            lambda p: jax.eval_shape(lambda: cases.make_state(0, width=128)).params,
            r"float32\[32,64\] in the checkpoint and float32\[32,128\] in the model",
        ),
        (
            lambda p: {**p, "head": {"bias": jax.ShapeDtypeStruct((5,), jnp.float32)}},
            r"head/bias is bfloat16\[5\] in the checkpoint and float32\[5\] in the model",
        ),
    ],
)
def test_another_model_is_an_error_and_no_damage(folder, change, words):
    params = change(cases.ABSTRACT.params)
    with pytest.raises(errors.UserError, match=f"checkpoint of another model: .*{words}"):
        saver_lib.restore_ema(folder, params)
    with saver_lib.Checkpointer(folder) as saver:
        with pytest.raises(errors.UserError, match=words):
            saver.restore_latest(dataclasses.replace(cases.ABSTRACT, params=params))
        assert saver.problems == [] and saver.all_steps() == [1, 2]


def test_weights_alone(tmp_path):
    losses = {1: 0.2, 2: 0.1, 3: 0.4}
    folder = cases.save(
        tmp_path / "c", losses, losses=losses, keep_latest=3, best_metric="val/loss"
    )
    mesh = mesh_lib.make_mesh(1, 4, 2)
    target = parameter_rules.with_shardings(
        cases.ABSTRACT.params, parameter_rules.param_shardings(cases.ABSTRACT.params, mesh)
    )
    for step, number in (("best", 2), ("latest", 3), (1, 1)):
        params, config = saver_lib.restore_ema(folder, target, step)
        assert cases.equal(params, cases.make_state(number).ema_params) and config == {"x": 1}
    assert saver_lib.read_config(folder) == {"x": 1}
    # Optimiser state is not needed: a published checkpoint may come without it.
    shutil.rmtree(folder / "2" / "train_state")
    params, _ = saver_lib.restore_ema(folder, target)
    assert cases.equal(params, cases.make_state(2).ema_params)
    (folder / "2" / "config" / "metadata").write_text("{}")
    params, _ = saver_lib.restore_ema(folder, target)
    assert cases.equal(params, cases.make_state(1).ema_params)
    with pytest.raises(errors.UserError, match="checkpoint 2 is damaged"):
        saver_lib.restore_ema(folder, target, 2)
    with pytest.raises(errors.UserError, match=r"no checkpoint of step 9; found 1, 2, 3"):
        saver_lib.restore_ema(folder, target, 9)


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(errors.UserError, match="no such folder"):
        saver_lib.read_config(tmp_path / "none")
    with pytest.raises(errors.UserError, match="holds no checkpoint"):
        saver_lib.restore_ema(tmp_path, cases.ABSTRACT.params)


def test_unwritable_folder_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=r"file/c: cannot write checkpoints here: Not a dir"):
        saver_lib.Checkpointer(tmp_path / "file" / "c")


_LIMITED = """
import resource, signal, sys
import jax.numpy as jnp, types
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state = lambda n: types.SimpleNamespace(
    step=jnp.int32(n), params={"w": jnp.arange(n, dtype=jnp.float32)}, opt_state=(), ema_params=None
)
saver = saver_lib.Checkpointer(sys.argv[1])
saver.save(1, state(10), {}, {})
saver.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    saver.save(2, state(1_000_000), {}, {})
    saver.wait()
except errors.UserError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_a_user_error_and_leaves_the_last_step(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"{tmp_path}/c: cannot write checkpoints here: File too large" in result.stdout
    steps = [p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()]
    assert steps == ["1"]


_LOST = """
import shutil, sys, time
from absl import flags
import jax.numpy as jnp, types
from orbax.checkpoint._src.path import atomicity
from madad_jax import main
from madad_jax.checkpoints import saver as saver_lib

finalize = atomicity.AtomicRenameTemporaryPath.finalize
async def lose(self, *args, **kwargs):
    if self.get_final().name == "2":
        shutil.rmtree(self.get())
    return await finalize(self, *args, **kwargs)
atomicity.AtomicRenameTemporaryPath.finalize = lose

def run(argv):
    state = types.SimpleNamespace(
        step=jnp.int32(1), params={"w": jnp.ones(3)}, opt_state=(), ema_params=None
    )
    with saver_lib.Checkpointer(sys.argv[1]) as saver:
        saver.save(1, state, {}, {})
        saver.save(2, state, {}, {})
        for _ in range(300):  # The steps of a training that saves no more for long.
            saver.check()
            time.sleep(0.1)
    print("not found")

flags.FLAGS(["test"])
sys.exit(main._guarded(run, []))
"""


def test_a_save_that_fails_in_the_background_ends_the_process_with_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _LOST, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in result.stderr.splitlines() if "error: " in line]
    assert result.returncode == 2 and "not found" not in result.stdout, result.stderr
    where = f"{tmp_path}/c: cannot write checkpoints here: No such file or directory"
    assert said == [f"madad_jax: error: {where}"] and "Traceback" not in result.stderr
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1"]


def test_a_relative_folder_is_as_good_as_an_absolute_one(tmp_path, monkeypatch):
    """Orbax itself refuses it, in a thread, long after the save was accepted."""
    monkeypatch.chdir(tmp_path)
    with saver_lib.Checkpointer("runs/c") as saver:
        assert saver.save(1, cases.make_state(1), {}, {"a": 1})
    assert saver_lib.read_config("runs/c") == {"a": 1}
    with saver_lib.Checkpointer("runs/c") as saver:
        assert saver.restore_latest(cases.ABSTRACT).step == 1
