import json

import numpy as np
import pytest

from madad_jax.evaluation import task_tables


def row(ap):
    return {"ap": ap, "pooled_dice_healthy": ap / 2, "false_alarm_pixels_healthy": None}


@pytest.fixture
def table():
    first = [row(0.8), row(0.1)]
    ways = {
        "update": [first, [row(0.7), row(0.5)]],
        "none": [first, [row(0.2), None]],
        "joint": [[row(0.75), row(0.65)]],
    }
    return task_tables.TaskTable(["T1", "FLAIR"], ways, {"1_T1": {"a": [1, 4], "b": [3, 4]}})


def test_json_has_matrices_and_measures(table):
    found = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    ap = found["figures"]["ap"]
    assert ap["update"]["matrix"] == [[0.8, 0.1], [0.7, 0.5]]
    assert ap["update"]["average"] == pytest.approx(0.6)
    assert ap["update"]["forgetting"] == pytest.approx(0.1)
    assert ap["none"]["matrix"][1] == [0.2, None]
    assert ap["none"]["average"] is None and ap["none"]["forgetting"] == pytest.approx(0.6)
    assert ap["joint"]["average"] == pytest.approx(0.7) and ap["joint"]["forgetting"] is None
    assert found["figures"]["pooled_dice_healthy"]["update"]["forgetting"] == pytest.approx(0.05)
    assert "forgetting" not in found["figures"]["false_alarm_pixels_healthy"]["update"]


def test_report_says_what_is_after_and_on_what(table):
    text = table.markdown("study", "Drawn.")
    assert "# study: T1 → FLAIR" in text and "> **Synthetic data.** Drawn." in text
    assert "| projection of the update | FLAIR | 70.0 | 50.0 |" in text
    assert "| joint training | all | 75.0 | 65.0 |" in text
    assert "| plain fine-tuning |  | 60.0 | 60.0 | -60.0 |" in text
    assert "| 1_T1 | 2 | 25 to 75, median 50 |" in text
    assert np.isnan(table.matrix("none", "ap")[1, 1])
