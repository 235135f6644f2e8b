"""The runs that a config of tasks stands for."""

import pytest

from configs import continual
from madad_jax.assembly import config_record, parts, tasks
from madad_jax.core import errors


@pytest.fixture
def config():
    c = continual.get_config()
    c.train.tasks = ("A data.root=/a b", "B data.root=/b data.modality=T2", "C data.root=/c")
    return c


def test_a_task_goes_on_from_the_one_before_on_the_first_ones_latents(config, tmp_path):
    made = tasks.Tasks(config, tmp_path)
    first, second, third = (made.run("update", n, 0.5) for n in range(3))
    assert first.folder == tmp_path / "1_A" and first.config.data.root == "/a b"
    assert first.config.denoiser.init == "" == first.config.autoencoder.checkpoint
    assert first.config.autoencoder.scaling_factor == 0.0
    assert second.folder == tmp_path / "update" / "2_B"
    assert (second.config.data.root, second.config.data.modality) == ("/b", "T2")
    assert second.config.denoiser.init == str(first.folder)
    assert third.config.denoiser.init == str(second.folder)
    assert third.config.data.modality == "T1", "changes are of the config and not of a task"
    for run in (second, third):
        assert run.config.autoencoder.checkpoint == str(first.folder)
        assert run.config.autoencoder.scaling_factor == 0.5
        assert run.parts().plan.projection == "update"
    assert first.parts().plan.projection == "none"
    assert [made.run("none", n, 0.5).parts().plan.projection for n in range(3)] == ["none"] * 3


def test_every_way_shares_the_first_task_and_joint_training_takes_all_steps(config, tmp_path):
    made = tasks.Tasks(config, tmp_path)
    assert made.ways == ("update", "none", "joint")
    assert made.run("none", 0).folder == made.run("update", 0).folder
    joint = made.run("joint", 2, 0.5)
    assert joint.config.train.steps == 3 * config.train.steps
    assert joint.config.denoiser.init == ""
    assert [made.figures(made.run("none", 1), n).name for n in range(3)] == ["1_A", "2_B", "3_C"]
    assert made.figures(made.run("none", 1), 1) == made.run("none", 1).folder


def test_records_of_other_runs_have_no_trace_of_it(config, tmp_path):
    """A run without it is that of an earlier version, and what is not projected reads nothing."""
    made = tasks.Tasks(config, tmp_path)
    for run, expected in ((made.first(), False), (made.run("none", 1), False)):
        found = run.parts().stage_record("denoiser")
        assert any(key.startswith("train.continual") for key in found) == expected
        assert "train.tasks" not in found
    found = made.run("update", 1).parts().stage_record("denoiser")
    names = {k.removeprefix("train.continual.") for k in found if k.startswith("train.continual")}
    assert names == {"projection", "basis", "energy", "max_rank", "slices"}
    assert (
        "train.continual.projection"
        in config_record.differences(made.first().parts().stage_record("denoiser"), found)[0]
    )


def test_configs_of_before_have_no_tasks(config):
    with config.unlocked():
        config.train = {k: v for k, v in config.train.items() if k not in ("tasks", "continual")}
    assert not tasks.are_asked(config)
    assert parts.assemble(config).plan.projection == "none"


@pytest.mark.parametrize("text", ["A", "A data.root=", "A data.seed=1", "a/b data.root=x", 3, ""])
def test_what_is_no_task_is_named(config, tmp_path, text):
    config.unlock()
    config.train.tasks = (text,)
    with pytest.raises(errors.UserError, match=r"train\.tasks: found .* accepted: a name"):
        tasks.Tasks(config, tmp_path)
