import json

import pytest
from etils import epath

from benchmarks.speed import ceilings, results
from madad_jax.core import errors

FACTS = dict(
    cpu="a CPU", cores=2, device="cpu", versions="v 1", command="python -m x", rival="none"
) | {"load_average": 0.5, "time": "today"}


def row(name, seconds=0.5, **more):
    spread = {"median": seconds, "low": seconds / 2, "high": seconds * 2, "runs": 3}
    return results.Row(name, ours={"seconds": spread, "cpu_seconds": 1.0}, **more)


def test_rows_are_kept_and_measured_again(tmp_path):
    folder = epath.Path(tmp_path)
    results.store(folder, "train", row("a"), FACTS)
    results.store(folder, "encode", row("a", figures={"size": "3 px"}), FACTS)
    results.store(folder, "train", row("b"), FACTS)
    results.store(folder, "train", row("a", 3.0), FACTS | {"load_average": 2.0})
    stored = json.loads((folder / results.JSON).read_text())["rows"]
    assert [(r["suite"], r["name"]) for r in stored] == [
        *(("encode", "a"), ("train", "b"), ("train", "a"))
    ]
    assert stored[-1]["ours"]["seconds"]["median"] == 3.0
    table = (folder / results.TABLE).read_text()
    assert "| a | **ours** | 3 [1.5, 6] s, 3 runs | 1 |" in table
    assert "| b | **ours** | 500 [250, 1000] ms, 3 runs | 1 |" in table
    assert "| a | size | 3 px |" in table and "load average 0.5 to 2.0" in table
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".new")]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{"name": "a"}]}', '{"rows": 3}'])
def test_a_file_of_something_else_is_not_overwritten(tmp_path, content):
    (tmp_path / results.JSON).write_text(content)
    with pytest.raises(errors.UserError, match="no benchmark results"):
        results.store(epath.Path(tmp_path), "train", row("a"), FACTS)
    assert (tmp_path / results.JSON).read_text() == content


@pytest.mark.parametrize(
    "value,text", [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 us"), (1234.5, "1230 s")]
)
def test_times_have_a_unit_that_fits(value, text):
    assert results.one(value) == text


def test_memory_that_takes_longer_than_the_run_bounds_nothing():
    floors = {"compute": 1.0, "memory": 3.0, "launch": 0.1}
    assert ceilings.bound(floors, 4.0) == "memory"
    assert ceilings.bound(floors, 2.0) == "compute"
