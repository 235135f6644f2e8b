"""The command itself, on the tiny config."""

import json
import os

import pytest

from benchmarks.speed import run

PYTHON = os.environ.get("MADAD_RIVAL_PYTHON", "")


def rows(workdir):
    return json.loads((workdir / "benchmark" / "benchmark.json").read_text())["rows"]


def test_our_figures_alone(speed, tmp_path):
    process = speed(
        *("--suite=encode", f"--workdir={tmp_path}"),
        *("--config.benchmark.repeats=2", "--config.benchmark.rows=decode"),
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (row,) = rows(tmp_path)
    assert row["suite"] == "encode" and row["name"] == "decode, 32 px, batch 1"
    assert row["ours"]["seconds"]["runs"] == 2 and not row["rivals"]
    assert row["program"]["gflop"] > 0 and row["program"]["compile_seconds"] > 0
    assert row["program"]["parameters"] == {"autoencoder": 41181}
    assert row["facts"]["command"].startswith("python -m benchmarks.speed --config=")
    assert "no rival: benchmark.rival_python names no Python" in out and "of matmul" in out


@pytest.mark.parametrize(
    "flags,message",
    [
        (("--suite=trian",), "--suite: found 'trian', accepted: train, sample"),
        (("--suite=encode", "--config.benchmark.rows=latn"), "benchmark.rows: found 'latn'"),
        (("--config.benchmark.rivals=('eager',)",), "benchmark.rivals: found 'eager'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tiny, tmp_path, flags, message):
    suites = []
    for flag in flags:
        key, value = flag.split("=", 1)
        if key == "--suite":
            suites = [value]
        else:
            name = key.removeprefix("--config.benchmark.")
            tiny.benchmark[name] = ("eager",) if name == "rivals" else value
    with pytest.raises(run.errors.UserError, match=message):
        run.execute(tiny, str(tmp_path), suites)
    assert not (tmp_path / "benchmark").exists()


@pytest.mark.slow
def test_every_suite_of_ours(speed, tmp_path):
    """Two scans are prepared, by one process and by two, with equal bytes."""
    process = speed(
        "--suite=train,sample,evaluate,prepare,input,start,growth,profile",
        *(f"--workdir={tmp_path}", "--config.benchmark.networks=('own',)"),
        *("--config.benchmark.repeats=1", "--config.benchmark.maps=40"),
        *("--config.benchmark.official_maps=2", "--config.benchmark.scans=2"),
        *(
            "--config.benchmark.slices=16",
            "--config.benchmark.growth_batch_sizes=(1,2)",
            "--config.benchmark.growth_sides=(32,64)",
        ),
    )
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    found = {row["suite"]: row for row in rows(tmp_path)}
    assert set(found) == {
        "train",
        "sample",
        "evaluate",
        "prepare",
        "input",
        "start",
        "growth",
        "profile",
    }
    assert "second over first" in out and "pipeline over step" in out and "batch^" in out
    assert found["evaluate"]["rivals"]["official (extrapolated)"]["ratio"]["median"] < 1


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.skipif(
    not PYTHON, reason="MADAD_RIVAL_PYTHON names no Python with torch, monai, diffusers"
)
def test_beside_the_libraries(speed, tmp_path):
    """Same networks on both sides: U-Net and autoencoder agree to one norm layer; diffusers'
    transformer has an embedding of the time step more in every block."""
    process = speed(
        *("--suite=train,sample", f"--workdir={tmp_path}"),
        *("--config.benchmark.networks=('unet XS','own')", "--config.benchmark.repeats=1"),
        "--config.benchmark.rows=unet XS, cached, batch;own (dit T/2), equal, 2 steps",
        f"--config.benchmark.rival_python={PYTHON}",
        "--config.benchmark.rivals=('official','sdpa')",
    )
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    train, sample = rows(tmp_path)
    for row in (train, sample):
        assert set(row["rivals"]) == {"official", "sdpa"}, row
        assert all(theirs["ratio"]["median"] > 0 for theirs in row["rivals"].values())
    mine, theirs = (r["parameters"] for r in (train["program"], train["rivals"]["sdpa"]))
    assert mine["denoiser"] - theirs["denoiser"] == 128
    mine, theirs = (r["parameters"] for r in (sample["program"], sample["rivals"]["sdpa"]))
    assert mine["autoencoder"] == theirs["autoencoder"] and mine["denoiser"] < theirs["denoiser"]
