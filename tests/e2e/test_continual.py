"""Two tasks on tiny slices: what is trained, kept and measured, stopped and killed anywhere."""

import json
import shutil
import signal
import subprocess

import cv2
import jax
import numpy as np
import pytest

from madad_jax.assembly import tasks as tasks_lib
from madad_jax.core import errors
from madad_jax.experiment import layer_inputs, stages, task_chain
from madad_jax.runtime import stop as stop_lib
from tests.e2e import continual_config, jobs
from tests.e2e.test_run import StopAfter, assert_same, metrics_of, restored


@pytest.fixture(scope="module")
def roots(tmp_path_factory, png_root):
    """The tiny slices, and the same with their grey values turned round."""
    other = tmp_path_factory.mktemp("sites") / "b"
    shutil.copytree(png_root, other)
    for path in other.rglob("*-T1.png"):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.where(image > 0, 255 - image // 2, 0).astype(np.uint8))
    return png_root, other


@pytest.fixture
def config(roots):
    return continual_config.get_config(*map(str, roots))


def execute(config, workdir, mode="run", stop=None, devices=1):
    with stop or stop_lib.GracefulStop() as s:
        task_chain.execute(config, str(workdir), mode, s, jax.devices()[:devices])


@pytest.fixture(scope="module")
def chain(tmp_path_factory, roots, trained):
    """One undisturbed training on both tasks."""
    workdir = tmp_path_factory.mktemp("chain")
    shutil.copytree(trained / "autoencoder", workdir / "1_A" / "autoencoder")
    execute(continual_config.get_config(*map(str, roots)), workdir, "train")
    return workdir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, roots, chain):
    """The same with comparisons and figures."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(chain, workdir)
    config = continual_config.get_config(*map(str, roots))
    config.train.continual.compare = ("none", "joint")
    execute(config, workdir)
    return workdir


def run_of(config, workdir, way="update", number=1):
    tasks = tasks_lib.Tasks(config, workdir)
    return tasks.run(way, number, task_chain._factor(tasks.first()))


def test_leaves_figures_of_every_task_after_every_task(finished):
    found = json.loads((finished / task_chain.FILE).read_text())
    assert found["tasks"] == ["A", "B"]
    ap = found["figures"]["ap"]
    assert {way: np.shape(ap[way]["matrix"]) for way in ap} == {
        "update": (2, 2),
        "none": (2, 2),
        "joint": (1, 2),
    }
    for way in ("update", "none"):
        matrix = np.array(ap[way]["matrix"])
        assert ((matrix >= 0) & (matrix <= 1)).all()
        assert ap[way]["forgetting"] == pytest.approx(matrix[0, 0] - matrix[1, 0])
    assert ap["update"]["matrix"][0] == ap["none"]["matrix"][0]
    text = (finished / "report.md").read_text()
    assert "plain fine-tuning" in text and "| joint training | all |" in text
    ranks = found["bases"]["1_A"]
    assert all(0 < rank <= size for rank, size in ranks.values()) and "x_embedder" in ranks


def test_the_second_task_learned_in_what_the_first_left_free(config, chain):
    """Movement of every kernel outside the first task's span, and time embedding at rest."""
    run = run_of(config, chain)
    bases = layer_inputs.read(run.folder / "denoiser" / layer_inputs.EARLIER)[1]
    first, _ = first_weights(config, chain)
    after = restored(run.config, run.folder).state.params
    for layer, basis in bases.items():
        name, _, leaf = layer.rpartition("/")
        old, new = (tree[name][leaf] if name else tree[leaf] for tree in (first, after))
        moved = [
            np.asarray(new[part], np.float64) - np.asarray(old[part]) for part in ("kernel", "bias")
        ]
        joint = np.concatenate([moved[0].reshape(len(moved[0]), -1), moved[1].reshape(1, -1)])
        assert np.abs(basis.T @ joint).max() < 1e-5, layer
        assert basis.shape[1] == basis.shape[0] or np.abs(joint).max() > 1e-4, layer
    assert_same(first["t_embedder_mlp_0"], after["t_embedder_mlp_0"])


def first_weights(config, workdir):
    from madad_jax.checkpoints import saver

    first = tasks_lib.Tasks(config, workdir).first()
    state = restored(first.config, first.folder).state
    return saver.restore_ema(first.folder / "denoiser" / "checkpoints", state.ema_params)


def test_the_same_command_again_changes_nothing(config, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("checkpoints/**/*")}
    report = (finished / "report.md").read_text()
    config.train.continual.compare = ("none", "joint")
    execute(config, finished)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("checkpoints/**/*")} == before
    assert (finished / "report.md").read_text() == report


@pytest.mark.slow
def test_the_whole_first_task_is_an_ordinary_run(config, chain, roots, tmp_path):
    first = tasks_lib.Tasks(config, chain).first()
    plain = continual_config.tiny(str(roots[0]))
    shutil.copytree(first.folder / "autoencoder", tmp_path / "autoencoder")
    with stop_lib.GracefulStop() as stop:
        stages.execute(plain, str(tmp_path), "train", stop, jax.devices()[:1])
    assert_same(restored(plain, tmp_path).state, restored(first.config, first.folder).state)


def start_of_second(chain, workdir):
    shutil.copytree(chain / "1_A", workdir / "1_A")
    (workdir / "1_A" / "denoiser" / layer_inputs.FILE).unlink()


def assert_equal_chains(config, ours, theirs):
    one, other = run_of(config, ours), run_of(config, theirs)
    a, b = restored(one.config, one.folder), restored(other.config, other.folder)
    assert_same(a.state, b.state)
    assert a.data_state == b.data_state
    assert metrics_of(one.folder) == metrics_of(other.folder)


def test_stopped_within_a_task_and_resumed_is_undisturbed(config, chain, tmp_path):
    start_of_second(chain, tmp_path)
    with pytest.raises(stop_lib.Stopped):
        execute(config, tmp_path, "train", stop=StopAfter(7))
    run = run_of(config, tmp_path)
    assert restored(run.config, run.folder).step == 7
    execute(config, tmp_path, "train")
    assert_equal_chains(config, tmp_path, chain)


@pytest.mark.parametrize("moment", ["inputs of layers: batch 0", "denoiser: step 7"])
def test_killed_between_and_within_tasks_and_started_again(config, chain, roots, tmp_path, moment):
    start_of_second(chain, tmp_path)
    # As many devices as here: XLA has a thread for each at least, and the older one (jax 0.10.2)
    # splits the long sums of moments by threads, which shows in their last digits.
    environment = jobs.environment(len(jax.devices())) | {"DIES_AT": moment}
    words = [*continual_config.COMMAND, *map(str, roots), str(tmp_path)]
    process = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    execute(config, tmp_path, "train")
    assert_equal_chains(config, tmp_path, chain)


@pytest.mark.slow
def test_eight_devices_learn_as_one_within_rounding(config, chain, tmp_path):
    start_of_second(chain, tmp_path)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    execute(config, tmp_path, "train", devices=8)
    one, other = run_of(config, tmp_path), run_of(config, chain)
    a = layer_inputs.read(other.folder / "denoiser" / layer_inputs.EARLIER)[1]
    b = layer_inputs.read(one.folder / "denoiser" / layer_inputs.EARLIER)[1]
    for layer in a:
        np.testing.assert_allclose(a[layer] @ a[layer].T, b[layer] @ b[layer].T, atol=1e-4)
    pair = restored(one.config, one.folder), restored(other.config, other.folder)
    for x, y in zip(*(jax.tree.leaves(p.state.params) for p in pair), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=2e-5)


def test_other_bases_under_a_begun_task_are_refused(config, chain, tmp_path):
    shutil.copytree(chain, tmp_path / "copy")
    run = run_of(config, tmp_path / "copy")
    (run.folder / "denoiser" / "complete.json").unlink()
    own = run.folder / "denoiser" / layer_inputs.EARLIER
    last = run.folder / "denoiser" / layer_inputs.FILE
    assert not last.exists(), "no task follows the last"
    content = own.read_bytes()
    config.train.continual.energy = 0.9
    layer_inputs_of_first = tmp_path / "copy" / "1_A" / "denoiser" / layer_inputs.FILE
    assert layer_inputs_of_first.read_bytes() == content
    with pytest.raises(errors.UserError, match=r"train\.continual\.energy: 0\.99 -> 0\.9"):
        execute(config, tmp_path / "copy", "train")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.tasks", ("A",), r"train\.tasks: found 'A', accepted: a name"),
        ("train.tasks", ("A data.seed=1",), "accepted: a name and what changes"),
        ("train.tasks", ("A data.root=x", "A data.root=y"), "found a name twice"),
        ("train.tasks", ("A data.root=/nowhere",), "A: .*nowhere"),
        ("train.continual.projection", "weights", "train.continual.projection: found 'weights'"),
        ("train.continual.slices", 0, r"train\.continual\.slices: found 0"),
        ("train.continual.basis", "svd", r"train\.continual\.basis: found 'svd'"),
    ],
)
def test_mistakes_are_named(config, tmp_path, key, value, message):
    config.unlock()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError, match=message):
        execute(config, tmp_path)
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_second_network_is_refused_before_anything_is_trained(config, tmp_path):
    config.methods.madad.pixel_head.network.widths = (8, 8)
    config.synthesis.share = 0.5
    with pytest.raises(errors.UserError, match="trains more than a denoiser"):
        execute(config, tmp_path)
    assert not list(tmp_path.rglob("checkpoints"))


def test_projection_without_a_run_before_is_refused(tiny, execute, tmp_path):
    tiny.train.continual.projection = "update"
    with pytest.raises(errors.UserError, match="and that names none"):
        execute(tiny, tmp_path, "train")


def test_tasks_in_a_cell_of_a_table_are_refused(config, tmp_path):
    with (
        pytest.raises(errors.UserError, match="as a cell of a table"),
        stop_lib.GracefulStop() as stop,
    ):
        stages.execute(config, str(tmp_path), "train", stop)
