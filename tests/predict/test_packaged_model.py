"""A model that was handed on: the maps of its run to the bit, and a line for every damage."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from madad_jax.core import errors
from madad_jax.metrics import calibration, scan_stacks
from madad_jax.predict import api, export, model_names, package, package_files

WORDS = package.Words("tiny", "CC-BY-SA-3.0", b"licence\n", b"# card\n", {"AP": "51"}, [20.0, 82.0])
ARRAYS = {
    "denoiser/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + np.float32(1e-4),
    "denoiser/bias": np.array([1.00001], np.float32),
    "scaling_factor": np.float32(0.123456789),
    "count": np.array([[1, 2]], np.int32),
}


@pytest.fixture(scope="module")
def run_and_site(untrained, tmp_path_factory):
    """(the untrained run's model, a calibration file that is bound to its weights)."""
    model = api.open_model(str(untrained), "")
    facts = {"weights": model.weights, "frozen": model.frozen_digests, "numbers": [4, 30, 2]}
    private = {**model.parts.record, "data": {**model.parts.record["data"], "root": "/home/me"}}
    options = {"none": scan_stacks.PRESETS["none"]}
    histogram = np.arange(calibration.N_BINS)[::-1].copy()
    levels, counts = np.array([0.5, 0.25], np.float32), np.array([1, 2])
    scans = tuple(calibration.Scan(n, 0.5, histogram, levels, counts) for n in ("a", "b"))
    healthy = calibration.Healthy(scans)
    made = calibration.Calibration(
        {("map", "none"): healthy}, options, {**facts, "config": private, "spacing": [8, 6.5, 6.5]}
    )
    site = tmp_path_factory.mktemp("site") / "site.npz"
    site.write_bytes(calibration.to_bytes(made))
    return model, site


@pytest.fixture(scope="module")
def packaged(run_and_site, tmp_path_factory):
    out = tmp_path_factory.mktemp("shipped") / "tiny"
    model, site = run_and_site
    said = package.write(model, str(out), WORDS, "float32", str(site))
    assert "tiny" in said and "float32" in said
    return out


def test_gives_the_maps_of_its_run_to_the_bit(run_and_site, packaged):
    run, _ = run_and_site
    model = api.open_model(str(packaged), "")
    assert (model.weights, model.frozen_digests) == (run.weights, run.frozen_digests)
    assert model.preparation == run.preparation
    assert model.facts["name"] == model.facts["run"] == "tiny"
    assert model.facts["ages"] == "20 to 82" and model.facts["licence"] == "CC-BY-SA-3.0"
    rng = np.random.default_rng(0)
    brain = np.zeros((model.shards, 32, 32), bool)
    brain[:, 6:26, 8:24] = True
    image = (rng.random(brain.shape) * brain * 2 - 1).astype(np.float32)[..., None]
    ours, theirs = (m.scorer(0, {"image": image, "brain_mask": brain}) for m in (model, run))
    assert ours["map"].max() > 0, "nothing to compare"
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_is_found_by_name_and_by_default(packaged, monkeypatch):
    monkeypatch.setattr(model_names, "FOLDER", packaged.parent)
    assert api.load("tiny").facts["name"] == "tiny"
    monkeypatch.setattr(model_names, "DEFAULT", "tiny")
    detector = api.load()
    assert detector.facts["name"] == "tiny" and detector.numbers == tuple(range(4, 31, 2))


def test_packages_again_as_it_is(packaged, tmp_path):
    model = api.open_model(str(packaged), "")
    package.write(model, str(tmp_path / "again"), WORDS, "float32")
    for path in packaged.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_no_path_of_the_machine_is_handed_on(packaged):
    made = calibration.from_bytes((packaged / "calibration.npz").read_bytes(), "x")
    assert made.facts["config"]["data"]["root"] == ""
    assert made.facts["config"] == json.loads((packaged / "model.json").read_text())["config"]


def test_rounded_weights_need_a_calibration_of_their_own(run_and_site, tmp_path):
    model, site = run_and_site
    common = (model, str(tmp_path / "half"), WORDS, "float16")
    with pytest.raises(errors.UserError, match="its calibration was made with other weights"):
        package.write(*common, str(site))
    with pytest.raises(errors.UserError, match="rounding moved the weights, and the healthy"):
        package.write(*common)
    with pytest.raises(errors.UserError, match="has no calibration"):
        package.write(*common[:3], "float32")
    assert not (tmp_path / "half").exists()


def test_halves_are_rounded_once_and_read_as_what_they_are():
    stored, read = package_files.round_weights(ARRAYS, "float16")
    assert stored["denoiser/kernel"].dtype == np.float16
    for name in ("denoiser/bias", "scaling_factor", "count"):
        assert stored[name].dtype == ARRAYS[name].dtype and stored[name].shape == np.shape(
            ARRAYS[name]
        )
        np.testing.assert_array_equal(read[name], ARRAYS[name])
    expected = ARRAYS["denoiser/kernel"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(read["denoiser/kernel"], expected)
    assert read["denoiser/kernel"].dtype == np.float32
    again, _ = package_files.round_weights(read, "float16")
    np.testing.assert_array_equal(again["denoiser/kernel"], stored["denoiser/kernel"])


@pytest.mark.parametrize("value", [70000.0, np.nan, -np.inf])
def test_what_a_half_cannot_hold_is_refused(value):
    with pytest.raises(errors.UserError, match="weights 'k': NaN, or a number too large"):
        package_files.round_weights({"k": np.full((2, 2), value, np.float32)}, "float16")


def about_of(**changes):
    values = {
        "name": "tiny", "modality": "T1", "licence": "CC-BY-SA-3.0", "dtype": "float16",
        "config": {}, "preparation": {}, "numbers": [0, 4, 2], "levels_mm": [-4.0, 8.0],
        "weights": "ab", "frozen": {}, "ages": None, "figures": {"AP": "51 [40, 62]"},
        "version": "0",
    }  # fmt: skip
    return package_files.About(**values | changes)


@pytest.fixture
def folder(tmp_path):
    """A model of a few numbers."""
    stored, _ = package_files.round_weights(ARRAYS, "float16")
    files = dict.fromkeys(package_files.FILES, b"text")
    files[package_files.WEIGHTS] = package_files.weights_bytes(stored)
    package_files.write(tmp_path / "m", about_of(), files)
    return tmp_path / "m"


def test_comes_back_as_it_was_written(folder):
    about = package_files.read_about(folder)
    assert dataclasses.replace(about, files={}) == about_of()
    read = package_files.read_weights(folder, about)
    _, expected = package_files.round_weights(ARRAYS, "float16")
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
    assert sorted(p.name for p in folder.iterdir()) == sorted((*package_files.FILES, "model.json"))


@pytest.mark.parametrize("name", package_files.FILES)
def test_every_flipped_bit_is_named(folder, name):
    about = package_files.read_about(folder)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=f"{name}': damaged, or of another model"):
        package_files.read_file(folder, name, about)
    path.unlink()
    with pytest.raises(errors.UserError, match=f"{name}' cannot be read"):
        package_files.read_file(folder, name, about)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "no packaged model of format 1"),
        ({"name": "../x"}, "name: found '../x'"),
        ({"ages": [82, 20]}, "ages: found"),
        ({"ages": "old"}, "ages: found old"),
        ({"figures": {"AP": 51}}, "figures: found"),
        ({"levels_mm": [0]}, "'levels_mm' is no list of 2"),
        ({"numbers": [0, 1, float("nan")]}, "'numbers' is no list of 3"),
        ({"config": []}, "'config' is no object"),
        ({"weights": 5}, "'weights' is no text"),
        ({"files": {}}, "no sha256 of model.safetensors"),
        ({"licence": None}, "'licence' is no text"),
    ],
)
def test_a_description_of_another_kind_is_one_line(folder, change, message):
    values = json.loads((folder / "model.json").read_text()) | change
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(errors.UserError, match=message) as caught:
        package_files.read_about(folder)
    assert "model.json" in str(caught.value) and "\n" not in str(caught.value)
    del values["version"]
    (folder / "model.json").write_text(json.dumps(values | {"format": 1}))
    with pytest.raises(errors.UserError, match="'version' is missing"):
        package_files.read_about(folder)


def test_a_folder_of_something_else_is_not_written_into(folder):
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(errors.UserError, match=r"holds 'thesis\.tex'"):
        package_files.write(folder, about_of(), dict.fromkeys(package_files.FILES, b""))


def test_a_write_that_stops_leaves_no_model(folder, monkeypatch):
    def full(path, content):
        raise errors.UserError("disk is full")

    monkeypatch.setattr(package_files.atomic_files, "write_bytes", full)
    with pytest.raises(errors.UserError, match="disk is full"):
        package_files.write(folder, about_of(), dict.fromkeys(package_files.FILES, b""))
    assert not package_files.is_one(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name", "'denoiser/extra' is float32.1., accepted: no such name"),
        ("missing", "is missing, accepted: float32"),
        ("shape", "is float32.1,1., accepted: float32"),
        ("type", "is int8.*, accepted: float32"),
    ],
)
def test_weights_of_another_network_are_named(packaged, tmp_path, change, message):
    """Though every digest fits."""
    copy = tmp_path / "copy"
    shutil.copytree(packaged, copy)
    weights = safetensors.numpy.load_file(copy / "model.safetensors")
    first = sorted(weights)[0]
    if change == "name":
        weights["denoiser/extra"] = np.zeros(1, np.float32)
    elif change == "missing":
        del weights[first]
    else:
        like = np.zeros((1, 1), np.float32)
        weights[first] = like if change == "shape" else weights[first].astype(np.int8)
    content = safetensors.numpy.save(weights)
    (copy / "model.safetensors").write_bytes(content)
    about = json.loads((copy / "model.json").read_text())
    about["files"]["model.safetensors"] = hashlib.sha256(content).hexdigest()
    (copy / "model.json").write_text(json.dumps(about))
    with pytest.raises(errors.UserError, match=message):
        api.open_model(str(copy), "")


def test_a_scalar_stays_a_scalar(run_and_site):
    assert export.flat_weights(run_and_site[0])["scaling_factor"].shape == ()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint is missing"),
        (["--name=Tiny Model"], "name: found 'Tiny Model'"),
        (["--ages=young"], "--ages: found 'young'"),
        (["--ages=30"], "ages: found"),
        (["--card=/no/card"], "/no/card"),
        (["--dtype=int8"], "dtype"),
        (["--checkpoint=nowhere"], "nowhere: no such folder"),
    ],
)
def test_one_line_for_what_the_user_can_mend(tmp_path, flags, message):
    text = tmp_path / "text"
    text.write_text("text")
    usual = {"checkpoint": "x", "out": tmp_path / "o", "name": "tiny", "licence": "MIT"}
    usual |= {"licence_file": text, "card": text}
    given = [f"--{k}={v}" for k, v in usual.items()] if flags else []
    with pytest.raises(errors.UserError, match=message) as caught:
        package.run(["package", *given, *flags])
    assert "\n" not in str(caught.value) and not (tmp_path / "o").exists()
