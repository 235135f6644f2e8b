import json
import math
import os

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from madad_jax.core import errors
from madad_jax.training import metric_log


def _events(folder):
    """Events of a TensorBoard folder: each record is length (8), crc (4), bytes, crc (4)."""
    events = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return events


def test_lines_and_curves(tmp_path):
    with metric_log.MetricWriter(tmp_path / "run") as writer:
        writer.write("denoiser", "train", 10, {"loss": 0.5, "lr": np.float32(0.25)})
        writer.write("denoiser", "val", 10, {"loss": math.nan})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first.pop("time") > 1.6e9
    assert first == {"stage": "denoiser", "split": "train", "step": 10, "loss": 0.5, "lr": 0.25}
    assert second["loss"] is None
    assert metric_log.read(tmp_path / "run")[0]["loss"] == 0.5
    events = _events(tmp_path / "run" / "tensorboard" / "denoiser" / "train")
    points = {v.tag: (e.step, v.simple_value) for e in events for v in e.summary.value}
    assert points == {"loss": (10, 0.5), "lr": (10, 0.25)}


def test_resume_drops_later_lines_of_its_stage_only(tmp_path):
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.write("autoencoder", "train", 90, {"loss": 1.0})
        for step in (10, 20, 30):
            writer.write("denoiser", "train", step, {"loss": float(step)})
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.truncate_after("denoiser", 20)
        writer.write("denoiser", "train", 30, {"loss": 33.0})
    rows = [(r["stage"], r["step"], r["loss"]) for r in metric_log.read(tmp_path)]
    assert rows == [
        ("autoencoder", 90, 1.0),
        ("denoiser", 10, 10.0),
        ("denoiser", 20, 20.0),
        ("denoiser", 30, 33.0),
    ]
    events = _events(tmp_path / "tensorboard" / "denoiser" / "train")
    purges = [e.step for e in events if e.session_log.status == 1]
    assert purges == [21]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "tensorboard"]


def test_a_torn_tail_is_dropped(tmp_path):
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.write("denoiser", "train", 1, {"loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"stage": "denoiser", "spl')
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.write("denoiser", "train", 2, {"loss": 2.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_only_the_primary_writes(tmp_path):
    with metric_log.MetricWriter(tmp_path / "run", is_primary=False) as writer:
        writer.write("denoiser", "train", 1, {"loss": 1.0})
        writer.truncate_after("denoiser", 0)
    assert not (tmp_path / "run").exists()


def test_reserved_names_are_refused(tmp_path):
    writer = metric_log.MetricWriter(tmp_path)
    with pytest.raises(ValueError, match="step"):
        writer.write("denoiser", "train", 1, {"step": 1.0})


def test_unwritable_folder_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=r"file/run: cannot write here: Not a directory"):
        metric_log.MetricWriter(tmp_path / "file" / "run")


def test_full_disk_names_the_folder(tmp_path):
    """/dev/full accepts an open and refuses every write."""
    writer = metric_log.MetricWriter(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(errors.UserError, match="cannot write here: No space left on device"):
        writer.write("denoiser", "train", 1, {"loss": 1.0})


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"null", b"\0" * 40, b"[" * 9999, b'{"step": "x"}']
)
def test_lines_that_are_none_of_ours_are_left_out(tmp_path, line):
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.write("toy", "train", 1, {"loss": 0.5})
    path = tmp_path / metric_log.FILE_NAME
    path.write_bytes(path.read_bytes() + line + b"\n" + line)
    with metric_log.MetricWriter(tmp_path) as writer:
        writer.truncate_after("toy", 5)
        writer.write("toy", "train", 2, {"loss": 0.4})
    assert [row["step"] for row in metric_log.read(tmp_path)] == [1, 2]
