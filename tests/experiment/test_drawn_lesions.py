"""A drawn set: what a slice keeps, where the truth comes from, and going on after a stop."""

import json

import cv2
import jax
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.sources import png_folder
from madad_jax.diffusion import schedule
from madad_jax.experiment import (
    drawn_lesions,
    lesion_bank,
    lesion_examples,
    lesion_plans,
    lesion_training,
)
from madad_jax.methods import dae, lesion_drawer, madad
from madad_jax.models import registry
from madad_jax.synthesis import learned
from tests.methods import stand_ins

SIDE = 40
COPY = lesion_plans.Settings(appearance="copy", rim=1.0)


def write(folder, stem, image, brain, truth=None, depth=8):
    folder.mkdir(parents=True, exist_ok=True)
    kind, white = (np.uint8, 255) if depth == 8 else (np.uint16, 65535)
    cv2.imwrite(str(folder / f"{stem}-T1.png"), np.round(image * white).astype(kind))
    cv2.imwrite(str(folder / f"{stem}-brainmask.png"), brain.astype(np.uint8) * 255)
    if truth is not None:
        cv2.imwrite(str(folder / f"{stem}-segmentation.png"), truth.astype(np.uint8) * 255)


def make_folders(root, examples=3, healthy=5, width=SIDE, depth=8, lesion=True):
    """Slices of noisy grey brains; the examples' lesions are dark squares with a bright middle."""
    draw = np.random.default_rng(0)
    brain = np.zeros((SIDE, width), bool)
    brain[4:-4, 5:-5] = True
    for n in range(max(examples, healthy)):
        image = np.where(brain, draw.uniform(0.5, 0.6, brain.shape), 0.1)  # a skull outside
        if n < healthy:
            write(root / "healthy", f"well{n}-slice_{n + 3:03}", image, brain, depth=depth)
        if n < examples:
            truth = np.zeros(brain.shape, bool)
            if lesion:
                truth[10 + n : 17 + n, 12:20] = True
                truth[30:32, 15:18] = True
            sick = np.where(truth, 0.2, image)
            sick[12 + n : 15 + n, 14:17] = 0.9
            write(root / "ms", f"sick-slice_{n:03}", sick, brain, truth, depth)
    return root


def open_healthy(root, size=SIDE):
    return lesion_examples.open_folder(root / "healthy", "T1", size, "--input")


def read_set(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize(("depth", "width"), [(8, SIDE), (16, SIDE - 6)])
def test_pixels_outside_the_lesions_are_those_of_the_file(tmp_path, depth, width):
    root = make_folders(tmp_path, depth=depth, width=width)
    examples, source = [lesion_examples.read(root / "ms", "T1", 0)], open_healthy(root)
    writer = drawn_lesions.Writer(root / "out", "test", source, examples, COPY, None)
    writer.write(list(range(5)))
    for record in source.records:
        named = [
            cv2.imread(str(folder / f"{record.id}-T1.png"), cv2.IMREAD_UNCHANGED)
            for folder in (root / "healthy", root / "out/test", root / "out/test_healthy")
        ]
        before, after, kept = named
        np.testing.assert_array_equal(before, kept)
        assert after.dtype == before.dtype and after.shape == before.shape
        truth = cv2.imread(str(root / f"out/test/{record.id}-segmentation.png"), 0) > 0
        brain = cv2.imread(str(root / f"healthy/{record.id}-brainmask.png"), 0) > 0
        white = np.iinfo(before.dtype).max
        change = np.abs(after.astype(float) - before) / white
        # The truth are the changed pixels, and the counterfactual tells how much they changed.
        np.testing.assert_array_equal(truth, change > COPY.least_change)
        assert truth.any() and not (change[~brain] > 0).any()
        facts = json.loads((root / f"out/slices/{record.id}.json").read_text())
        assert facts["changed_pixels"] == truth.sum() and facts["subject"] == record.subject
        # A copy is found to be one.
        nearest = facts["nearest_example"]
        assert nearest["ncc_source"] > 0.9 and abs(nearest["ncc_source_healthy"]) < 0.5
        assert nearest["ncc"] > 0.7 > nearest["ncc_healthy"]
        nothing = cv2.imread(str(root / f"out/test_healthy/{record.id}-segmentation.png"), 0)
        assert not nothing.any()
    # The layout is the one that trainings and evaluations read.
    assert len(png_folder.PngFolder(str(root / "out"), split="test", modality="T1", image_size=32))
    assert len(list((root / "out/panels").glob("*.png"))) == 5


def test_the_two_ways_to_compose():
    brain = np.ones((20, 20), bool)
    levels = np.full((20, 20), 100, np.int32)
    picture = lesion_examples.Picture(
        *("a", "a"), levels, 255, brain, ~brain, (slice(0, 20), slice(0, 20))
    )
    mask = np.zeros((20, 20), bool)
    mask[8:12, 8:12] = True
    plan = lesion_plans.Plan(1, mask, np.zeros((20, 20), np.float32), [])
    # The autoencoder loses 0.1 of the range everywhere; the lesion adds 0.2.
    healthy = np.full((10, 10), 2 * 100 / 255 - 1 - 0.2, np.float32)
    made, truth = lesion_plans.compose(
        picture, plan, lesion_plans.Settings(), healthy + 0.4, healthy
    )
    assert made[10, 10] == 100 + 51 and truth[10, 10]
    blended, _ = lesion_plans.compose(
        picture, plan, lesion_plans.Settings(compose="blend"), healthy + 0.4, healthy
    )
    assert blended[10, 10] == round(100 - 25.5 + 51)
    assert (made[:4] == 100).all() and not truth[:4].any()
    same, nothing = lesion_plans.compose(picture, plan, lesion_plans.Settings(), healthy, healthy)
    np.testing.assert_array_equal(same, levels)
    assert not nothing.any()


def small_drawer():
    denoiser = registry.denoiser(
        "dit", size=None, hidden_size=16, depth=1, num_heads=2, patch_size=1
    )
    method = madad.MadAd(denoiser, stand_ins.autoencoder(), schedule.make_schedule("cosine", 3))
    shapes = jax.eval_shape(lambda: denoiser.init(jax.random.key(0), (1, 10, 10, 16)))
    draw = np.random.default_rng(0)  # of fresh weights the heads are 0
    weights = jax.tree.map(lambda s: draw.normal(0, 0.2, s.shape).astype(np.float32), shapes)
    frozen = {"autoencoder": {}, "scaling_factor": np.float32(1.0)}
    return lesion_training.make_drawer(method, weights, frozen, types=1, rank=2, batch_size=4)


def test_a_stopped_drawing_goes_on_to_the_same_set(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_lesions, "BATCH", 2)
    root = make_folders(tmp_path)
    examples, source = [lesion_examples.read(root / "ms", "T1", SIDE)], open_healthy(root)
    drawer, frozen = small_drawer()
    settings = lesion_plans.Settings(least_change=0.001)
    params = drawer.init_adapters(jax.random.key(1), frozen)
    draw = drawn_lesions.sampler(drawer, params, frozen, 0)
    whole = drawn_lesions.Writer(root / "whole", "test", source, examples, settings, draw)
    whole.write(list(range(5)))
    calls = []

    def stopping(*arguments):
        calls.append(arguments[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments)

    cut = drawn_lesions.Writer(root / "cut", "test", source, examples, settings, stopping)
    with pytest.raises(KeyboardInterrupt):
        cut.write(list(range(5)))
    assert len(list((root / "cut/slices").iterdir())) == 2
    before = {p.name: p.stat().st_mtime_ns for p in (root / "cut/test").iterdir()}
    cut.write(list(range(5)))
    after = {p.name: p.stat().st_mtime_ns for p in (root / "cut/test").iterdir()}
    assert before.items() <= after.items() and len(after) == 15
    assert read_set(root / "cut/test") == read_set(root / "whole/test")
    drawn_lesions.begin(root / "cut", {})
    assert cut.summarise(list(range(5)))["slices"] == 5
    drawn = [n for call in calls for n in call]
    assert len(set(drawn)) == 5  # an own key for every slice


def test_training_goes_on_to_the_same_adapters(tmp_path, monkeypatch):
    monkeypatch.setattr(lesion_training, "KEEP_EVERY", 2)
    root = make_folders(tmp_path)
    examples, source = [lesion_examples.read(root / "ms", "T1", SIDE)], open_healthy(root)
    drawer, frozen = small_drawer()
    batch = lesion_training.gather(examples, source, lesion_plans.Settings(), most=3)
    assert batch["healthy_image"].shape == (3, SIDE, SIDE, 1)
    assert batch["healthy_mask"].any((1, 2)).all()

    def train(name, steps):
        path = tmp_path / name
        plan = lesion_training.Plan(steps, lr=1e-2)
        return lesion_training.train(drawer, frozen, batch, plan, path, {"a": 1}), path

    whole, _ = train("whole.npz", 6)
    _, path = train("cut.npz", 4)
    found, _ = train("cut.npz", 6)
    jax.tree.map(np.testing.assert_array_equal, whole, found)
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(found["types"]))
    path.write_bytes(b"no archive")
    with pytest.raises(errors.UserError, match="adapters that draw lesions"):
        train("cut.npz", 6)


def test_a_set_of_other_things_is_not_gone_on_with(tmp_path):
    out = drawn_lesions.folder_path(str(tmp_path / "out"))
    drawn_lesions.begin(out, {"slices": 5, "modality": "T1"})
    drawn_lesions.begin(out, {"slices": 5, "modality": "T1"})
    with pytest.raises(errors.UserError, match=r"another slices \(found 5, now 6\)"):
        drawn_lesions.begin(out, {"slices": 6, "modality": "T1"})


def test_slices_without_room_are_left_out_and_said(tmp_path):
    root = make_folders(tmp_path, healthy=2)
    image = np.full((SIDE, SIDE), 0.5)
    tiny = np.zeros((SIDE, SIDE), bool)
    write(root / "healthy", "zero-slice_001", image, tiny)
    examples, source = [lesion_examples.read(root / "ms", "T1", 0)], open_healthy(root)
    drawn_lesions.begin(root / "out", {})
    writer = drawn_lesions.Writer(root / "out", "train", source, examples, COPY, None, panels=1)
    writer.write([0, 1, 2])
    figures = writer.summarise([0, 1, 2])
    assert figures["left_out"] == {"zero-slice_001": "no place in its brain"}
    assert figures["slices"] == 2 and figures["lesions"] >= 2
    assert len(list((root / "out/panels").iterdir())) == 1
    # Nothing changes by so much: tried again, then left out.
    strict = lesion_plans.Settings(appearance="copy", least_change=0.95, tries=2)
    writer = drawn_lesions.Writer(root / "none", "train", source, examples, strict, None)
    drawn_lesions.begin(root / "none", {})
    writer.write([0])
    assert writer.summarise([0])["left_out"] == {"well0-slice_003": "no pixel changed enough"}


def test_a_bank_holds_what_lesions_changed(tmp_path):
    root = make_folders(tmp_path)
    examples, source = [lesion_examples.read(root / "ms", "T1", 0)], open_healthy(root)
    writer = drawn_lesions.Writer(root / "out", "train", source, examples, COPY, None)
    writer.write(list(range(5)))
    bank = lesion_bank.collect(root / "out", "train", "T1")
    assert bank["side"] == SIDE and len(bank["level"]) >= 5
    # The dark squares lie about 0.35 of the range below the tissue: 0.7 of [-1, 1].
    inside = bank["change"][bank["mask"] > 0]
    assert -0.8 < np.median(inside) < -0.3
    assert (np.abs(bank["change"]).max((1, 2)) > 2 * COPY.least_change).all()
    half = lesion_bank.fit(bank, SIDE // 2)
    assert half["change"].shape[1] <= bank["change"].shape[1] // 2 + 1
    total = bank["change"].sum((1, 2)) / 4
    np.testing.assert_allclose(half["change"].sum((1, 2)), total, rtol=0.25, atol=0.2)
    assert half["mask"].any((1, 2)).all()
    same = lesion_bank.fit(bank, SIDE)
    assert same["mask"].sum() == bank["mask"].sum()
    found = {name: value.shape for name, value in same.items()}
    count, side = same["change"].shape[:2]
    assert found == {k: s.shape for k, s in learned.shapes(count, side).items()}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"examples": 2}, "found 2 slices of T1, accepted: 3 or more"),
        ({"lesion": False}, "'sick-slice_000' has no lesion: its segmentation is missing or empty"),
    ],
)
def test_bad_examples_are_refused(tmp_path, how, text):
    root = make_folders(tmp_path, **how)
    with pytest.raises(errors.UserError, match=text):
        lesion_examples.read(root / "ms", "T1", 0)


def test_examples_and_healthy_slices_are_of_other_people(tmp_path):
    root = make_folders(tmp_path)
    examples = [lesion_examples.read(root / "ms", "T1", 0)]
    lesion_examples.check_apart(examples, {"well0"}, "--input")
    with pytest.raises(errors.UserError, match="subject 'sick' is in both '--examples=ms' and"):
        lesion_examples.check_apart(examples, {"well0", "SICK"}, "--input")
    with pytest.raises(errors.UserError, match=r"--examples=.*nowhere: no such folder"):
        lesion_examples.read(root / "nowhere", "T1", 0)


def test_runs_of_other_methods_are_refused():
    with pytest.raises(errors.UserError, match="found a run of method=dae, accepted: madad"):
        lesion_training.make_drawer(dae.Dae(stand_ins.denoiser()[0]), {}, {})
    unet = registry.denoiser("unet", size=None, model_channels=8, num_heads=1, num_groups=4)
    method = madad.MadAd(unet, stand_ins.autoencoder(), schedule.make_schedule("cosine", 3))
    frozen = {"autoencoder": {}, "scaling_factor": 1.0}
    with pytest.raises(errors.UserError, match="found 'unet', accepted: dit"):
        lesion_training.make_drawer(method, {}, frozen)
    assert lesion_drawer.LesionDrawer.name == "lesion_drawer"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"appearance": "drawn"}, "--appearance: found 'drawn', accepted: learned, copy"),
        ({"compose": "x"}, "--compose: found 'x', accepted: residual, blend"),
        ({"tries": 0}, "--least_change, --rim, --most, --tries: found 0.03, 2.0, 8, 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(errors.UserError, match=text):
        lesion_plans.Settings(**settings)
