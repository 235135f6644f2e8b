"""`madad-jax plan`: a folder and a machine to an experiment that trains, or one line why not."""

import dataclasses
import json
import os
import shutil
import stat

import cv2
import jax
import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors, shipped_configs
from madad_jax.data import folder_facts
from madad_jax.data.cohort import cohort
from madad_jax.experiment import plan as command
from madad_jax.experiment import plan_choices, plan_file, stages, step_times
from madad_jax.runtime import stop as stop_lib

TWO_CORES = plan_choices.Machine(cores=2, memory_gib=16.0)
LARGE_GPU = plan_choices.Machine(16, 128.0, accelerators=2, kind="H100", accelerator_gib=80.0)
SMALL_GPU = plan_choices.Machine(8, 32.0, accelerators=1, kind="T4", accelerator_gib=15.0)
COUNTS = {"train": 6, "val": 3, "test": 2}


def write_slice(folder, stem, image, brain, truth=None):
    cv2.imwrite(str(folder / f"{stem}-T1.png"), image)
    cv2.imwrite(str(folder / f"{stem}-brainmask.png"), brain.astype(np.uint8) * 255)
    if truth is not None:
        cv2.imwrite(str(folder / f"{stem}-segmentation.png"), truth.astype(np.uint8) * 255)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """The embedded cohort as a folder of PNG slices of 64 px, 8 levels a person."""
    root, cache = tmp_path_factory.mktemp("png"), tmp_path_factory.mktemp("cohort")
    options = cohort.options_from_dict({**COUNTS, "slices": 8})
    for split in COUNTS:
        (root / split).mkdir()
        source = cohort.Cohort(
            split, modality="T1", image_size=64, seed=0, options=options, cache_dir=str(cache)
        )
        for i, record in enumerate(source.records):
            sample = source[i]
            image = ((sample["image"][..., 0] + 1) * 127.5).astype(np.uint8)
            truth = sample["segmentation"] > 0 if split == "test" else None
            stem = f"{record.subject}-slice_{record.slice}"
            write_slice(root / split, stem, image, sample["brain_mask"] > 0, truth)
    return root


@pytest.fixture
def copy(slices, tmp_path):
    shutil.copytree(slices, tmp_path / "data")
    return tmp_path / "data"


def text_of(root, machine=TWO_CORES, **flags):
    plan = plan_choices.choose(folder_facts.look(str(root), **flags), machine)
    return plan, plan_file.text(plan, machine, "Expected: 1 minute.", "ours.py")


@pytest.mark.slow
def test_the_written_experiment_trains_a_few_steps(slices, tmp_path, monkeypatch, capsys):
    """From the folder to weights: the command's file is read as `--config=` reads it."""
    out = tmp_path / "ours.py"
    times = {
        "autoencoder step": step_times.Timing(1.0, 0.5),
        "denoiser step (live latents)": step_times.Timing(1.0, 0.25),
        "image to anomaly map": step_times.Timing(1.0, 2.0),
    }
    monkeypatch.setattr(step_times, "measure", lambda parts: times)
    monkeypatch.setattr(command, "find_machine", lambda: TWO_CORES)
    assert command.run(["plan", f"--in={slices}", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    # 1200 x 0.5 s, 1500 x 0.25 s, 40 slices in 3 batches of 16 x 2 s, 3 s of compiling.
    assert "Expected: 16 minutes" in said and "1200 x autoencoder step at 0.5 s" in said
    text = out.read_text()
    assert "# - train: 48 slices of 6 people" in text and "Expected: 16 minutes" in text
    config = shipped_configs.load(str(out))
    assert config.data.image_size == 64 and config.train.steps == 1500
    assert config.data.root == str(slices) and config.atlas.groups == 12
    # The same networks, a few steps of each.
    config.autoencoder.train.steps, config.train.steps = 2, 2
    config.optim.warmup_epochs = config.autoencoder.optim.warmup_epochs = 0.0
    config.methods.madad.pixel_head.network.widths = (8, 8, 8, 8)
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(tmp_path / "run"), "train", stop, jax.devices()[:1])
    assert json.loads((tmp_path / "run/denoiser/complete.json").read_text())["steps"] == 2
    with pytest.raises(errors.UserError, match=r"ours.py: exists"):
        command.run(["plan", f"--in={slices}", f"--out={out}"])


def test_steps_are_cut_where_time_is_short_to_a_third_at_most(slices, monkeypatch):
    plan, _ = text_of(slices)
    for seconds, share in ((1.0, 1.0), (2.0, 0.66), (100.0, 1 / 3)):
        slow = {
            key: step_times.Timing(0.0, seconds)
            for key in ("autoencoder step", "denoiser step (live latents)", "image to anomaly map")
        }
        monkeypatch.setattr(step_times, "measure", lambda parts, slow=slow: slow)
        cut, words = command.measure(plan, TWO_CORES, 60.0)
        assert cut.value("train.steps") == pytest.approx(1500 * share, abs=8)
        assert cut.value("log.every_steps") == 20 and "measured here as" in words
        why = next(c.why for c in cut.choices if c.key == "train.steps")
        assert ("for --minutes=60" in why) == (share < 1)


@pytest.mark.parametrize(
    ("machine", "recipe", "expected"),
    [
        (TWO_CORES, "small", {"train.batch_size": 16, "data.num_threads": 2}),
        (LARGE_GPU, "paper", {"train.batch_size": 24, "autoencoder.train.batch_size": 12}),
        (SMALL_GPU, "light", {"train.batch_size": 24, "data.num_threads": 4}),
    ],
)
def test_the_machine_chooses_the_networks(slices, machine, recipe, expected):
    plan, text = text_of(slices, machine)
    assert plan.recipe == recipe
    assert {key: plan.value(key) for key in expected} == expected
    assert machine.describe() in text
    parts = command.assemble(text)
    assert parts.data.image_size == 64
    assert parts.preset.startswith("light") == (recipe == "light")


def test_an_epoch_may_be_longer_than_all_steps(slices):
    """Warm-up is counted in epochs: of a large folder one would outlast the run."""
    facts = folder_facts.look(str(slices))
    many = {**facts.splits, "train": folder_facts.Split(100_000, 1000, 100)}
    plan = plan_choices.choose(dataclasses.replace(facts, splits=many), TWO_CORES)
    for one in (plan, plan.with_steps(1 / 3, "for a test")):
        parts = command.assemble(plan_file.text(one, TWO_CORES, "", "x.py"))
        for stage in (parts.plan, parts.autoencoder.plan):
            stage.optimizer(stage.budget(100_000))


def enlarge(folder, pattern, size):
    for path in folder.rglob(pattern):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))


def test_what_is_odd_is_said(copy):
    enlarge(copy / "train", "*-slice_0-*.png", (160, 120))  # width, height
    enlarge(copy / "train", "*-slice_1-*.png", (160, 120))
    shutil.rmtree(copy / "test")
    _, text = text_of(copy)
    assert "2 sizes, sides of 64 to 160 px" in text and "no test: the run trains" in text
    assert "no dataset.json" in text
    enlarge(copy, "*.png", (160, 120))
    plan, text = text_of(copy)
    assert "not square (120 x 160 px): padded with air to 160 px" in text
    assert plan.value("data.image_size") == 128
    memory = plan_choices.Machine(cores=2, memory_gib=2.0)
    assert text_of(copy, memory)[0].value("data.image_size") == 96


def drop(folder, pattern):
    for path in list(folder.glob(pattern)):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), r"no split 'val' with T1.* its 6 people"),
        (lambda root: shutil.rmtree(root / "train"), r"no split 'train'; found: test, val"),
        (lambda root: drop(root / "train", "*slice_[2-9]*"), r"found 12 slices of 6 people"),
        (lambda root: drop(root / "val", "*slice_[1-9]*"), r"'val': found 3 slices of 3 people"),
    ],
)
def test_too_little_is_one_line(copy, change, message):
    change(copy)
    with pytest.raises(errors.UserError, match=message) as caught:
        text_of(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"modality": "T2"}, r"--modality=T2; found in .*: T1"),
        ({"root": "/nowhere"}, r"--in=/nowhere: no such folder"),
    ],
)
def test_what_is_not_there(slices, flags, message):
    with pytest.raises(errors.UserError, match=message):
        text_of(**({"root": slices} | flags))


def test_two_contrasts_need_a_word(copy):
    for path in list(copy.rglob("*-T1.png")):
        shutil.copy(path, str(path).replace("-T1.png", "-FLAIR.png"))
    with pytest.raises(errors.UserError, match=r"--modality is missing; found in .*: FLAIR, T1"):
        text_of(copy)
    assert "other contrasts there: T1" in text_of(copy, modality="flair")[1]


def test_a_name_can_be_no_code(copy, tmp_path):
    odd = tmp_path / 'x"""\nimport os; os._exit(3) #'
    copy.rename(odd)
    plan, text = text_of(odd)
    assert command.assemble(text).data.root == str(odd)
    assert plan_file.name(plan) == "x-import-os-os-exit-3-t1"


def test_scans_begin_with_their_preparation(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([1.0, 1.0, 3.0, 1.0]))
    for i in range(12):
        nib.save(image, scans / f"p{i:02d}_T1w.nii.gz")
        nib.save(image, scans / f"p{i:02d}_FLAIR.nii.gz")
    with pytest.raises(errors.UserError, match=r"--modality is missing; found in .*: FLAIR, T1"):
        text_of(scans)
    plan, text = text_of(scans, modality="T1")
    assert "--slice_step=3" in plan.prepare and "--fractions=0.6,0.2,0.2" in plan.prepare
    assert (
        "12 scans of 1.0 x 1.0 x 3.0 mm" in plan.remarks[0] and "First: madad-jax prepare" in text
    )
    assert "images: {T1: '{id}_T1w{nii}'}" in plan.remarks[1] and "\\n" not in text
    assert command.assemble(text).data.root == "data/scans"
    for path in list(scans.glob("p0[4-9]*")) + list(scans.glob("p1*")):
        path.unlink()
    with pytest.raises(errors.UserError, match="found 4 scans of T1, accepted: at least 8"):
        text_of(scans, modality="T1")


def test_this_machine():
    machine = command.find_machine()
    assert machine.cores >= 1 and 0.1 < machine.memory_gib < 1e5
    if jax.default_backend() == "cpu":
        assert machine.accelerators == 0


def test_programs_are_timed(slices):
    """A tiny experiment, every program of which really runs."""
    from tests.e2e import tiny_config

    config = tiny_config.get_config()
    config.data.root = str(slices)
    config.autoencoder.discriminator = False  # half of the time to compile
    from madad_jax.assembly import parts

    times = step_times.measure(parts.assemble(config), repeats=1)
    assert set(times) == {
        *("autoencoder step", "denoiser step (live latents)", "image to anomaly map"),
    }
    assert all(t.compile > 0 and 0 < t.run < 60 for t in times.values())


def test_the_file_is_whole_or_not_there(slices, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_machine", lambda: TWO_CORES)
    out = tmp_path / "locked"
    out.mkdir()
    out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(out, os.W_OK):
        pytest.skip("this user writes anywhere")
    with pytest.raises((errors.UserError, OSError)):
        command.run(["plan", f"--in={slices}", f"--out={out / 'x.py'}", "--nomeasure"])
