import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data.sources import record
from madad_jax.evaluation import baselines, runner
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.metrics import evaluator, scan_figures, scan_stacks

SIDE, BATCH = 12, 4


class Source:
    """Scans `a`, `b`, ... of so many slices each."""

    def __init__(self, scans, slices, first="a"):
        names = [chr(ord(first) + i) for i in range(scans)]
        self.records = [
            record.Record(f"{s}{z}", s, z, "T1", "spot") for s in names for z in range(slices)
        ]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        raise AssertionError("batches_of makes the slices")

    def describe(self):
        return "test"

    fingerprint = describe


def batches_of(source):
    """Padded batches; the lesion of a slice is its brightest corner."""
    out = []
    for start in range(0, len(source.records), BATCH):
        index = np.arange(start, start + BATCH)
        images = np.random.default_rng(start).random((BATCH, SIDE, SIDE, 1), np.float32)
        truth = np.zeros((BATCH, SIDE, SIDE), bool)
        truth[:, 2:5, 2:5] = True
        out.append(
            {
                "index": np.where(index < len(source.records), index, -1),
                "image": images,
                "brain_mask": np.ones((BATCH, SIDE, SIDE), bool),
                "segmentation": truth,
                "has_segmentation": np.ones(BATCH, bool),
            }
        )
    return out


class Scorer(scorer_lib.Scorer):
    name = "fake"

    def __init__(self):
        pass

    def __call__(self, number, batch):
        return {"map": batch["image"][..., 0], "reconstruction": batch["image"]}


def count_instances(monkeypatch, module, name):
    made = []

    class Counted(getattr(module, name)):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(module, name, Counted)
    return made


@pytest.fixture
def evaluation():
    options = runner.Options(
        image_size=SIDE,
        sigma=0.0,
        false_positive_rate=0.05,
        bootstrap=0,
        panels=0,
        volumes=runner.Volumes((1.0, 1.0, 1.0), scan_stacks.Options()),
    )
    out = runner.Evaluation(Scorer(), options, batches_of)
    out.fit_baselines(Source(2, 3, "t"))
    out.choose_thresholds(Source(2, 3, "v"))
    return out


def test_a_set_builds_one_evaluator_a_row(evaluation, monkeypatch, tmp_path):
    slices = count_instances(monkeypatch, evaluator, "Evaluator")
    scans = count_instances(monkeypatch, scan_figures, "Scans")
    test, healthy = Source(3, 5), Source(2, 4, "x")
    rows = evaluation.score_set("test", test, healthy, epath.Path(tmp_path), {"step": 7})
    assert len(slices) == len(scans) == len(baselines.ROWS) + 1
    # Every batch went to them all: 4 batches of 15 slices, the last with padding.
    assert {row["n_slices"] for row in rows} == {15}
    assert {row["n_healthy_slices"] for row in rows} == {8}
    assert {row["volumes"]["n_scans"] for row in rows} == {5}


def test_rows_of_a_set_stand_in_the_order_of_the_report(evaluation, tmp_path):
    rows = evaluation.score_set("test", Source(2, 4), None, epath.Path(tmp_path), {})
    names = [row["method"] for row in rows]
    assert names[0].startswith("intensity (") and names[1:] == [*baselines.MEAN_IMAGES, "fake"]
    assert [row["learns"] for row in rows] == [False, False, False, True]
    assert rows[-1]["difference"]["to"] in names[:3]
    assert (tmp_path / "subjects.npz").exists() and (tmp_path / "scans.csv").exists()


def test_healthy_maps_without_thresholds_are_those_that_thresholds_are_chosen_on(evaluation):
    val = Source(2, 3, "v")
    ours, theirs = evaluation.score_healthy(val), evaluation.choose_thresholds(val)
    assert ours[0].keys() == theirs[0].keys() == {"map"}
    np.testing.assert_array_equal(ours[0]["map"], theirs[0]["map"])
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("smooth_slices", [0.0, 1.0])
def test_a_map_that_is_no_number_names_method_and_slice(value, smooth_slices):
    class Broken(Scorer):
        def __call__(self, number, batch):
            maps = batch["image"][..., 0].copy()
            maps[1, 3, 3] = value
            return {"map": maps, "reconstruction": batch["image"]}

    options = runner.Options(SIDE, 0.0, 0.05, bootstrap=0, panels=0, smooth_slices=smooth_slices)
    out = runner.Evaluation(Broken(), options, batches_of)
    out.fit_baselines(Source(2, 3, "t"))
    with pytest.raises(errors.UserError, match="fake, slice v1: found NaN or infinity"):
        out.choose_thresholds(Source(2, 3, "v"))


def test_a_set_of_healthy_slices_has_false_alarms_and_no_figures(evaluation, tmp_path):
    def without_lesions(source):
        for batch in batches_of(source):
            yield {**batch, "segmentation": np.zeros_like(batch["segmentation"])}

    evaluation._batches_of = without_lesions
    rows = evaluation.score_set("test_healthy", Source(2, 4), None, epath.Path(tmp_path), {})
    assert {row["ap"] for row in rows} == {None} and {row["n_healthy_slices"] for row in rows} == {
        8
    }
    assert all(0 <= row["false_alarm_pixels_healthy"] <= 1 for row in rows)
