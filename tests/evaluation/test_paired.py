import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.evaluation import paired, set_files
from madad_jax.metrics import evaluator, subject_sums
from tests.metrics.records import make_set


def _run(tmp_path, name, rows, fingerprint="same", *, same="", shown="test"):
    """A folder with the sums of an evaluation, as a run leaves them."""
    sums, results = {}, []
    for method, strength in rows.items():
        maps, truth, brain, records = make_set(24, strength=strength)
        ev = evaluator.Evaluator(draws=20, rates={0.01: 0.29}, healthy_threshold=0.28)
        ev.add(maps, truth, brain, np.ones(24, bool), records)
        sums[method] = ev.subjects.sums
        results.append(ev.result(method=method))
    facts = {"fingerprint": fingerprint, "floor": ["mean image"], "truth": same}
    folder = epath.Path(tmp_path / name / "eval" / shown)
    set_files.write(folder, results, sums, {}, facts)
    return str(tmp_path / name), sums


def test_differences_across_runs_are_paired(tmp_path):
    one, a = _run(tmp_path, "one", {"mean image": 0.05, "madad": 0.1})
    two, b = _run(tmp_path, "two", {"dae": 0.15})
    found = paired.differences([one, two], "test", draws=200)
    assert found[0]["method"] == "madad"  # the first learned row
    by_name = {(r["run"], r["method"]): r for r in found[1:]}
    better = by_name["two", "dae"]
    assert 0 < better["intervals"]["ap"][0] <= better["ap"] <= better["intervals"]["ap"][1]
    assert by_name["one", "mean image"]["ap"] < 0
    pair = [{"method": m, "learns": m != "x", "ap": 0.5} for m in ("x", "dae")]
    subject_sums.add_differences(list(zip(pair, (a["madad"], b["dae"]), strict=True)), draws=200)
    assert pair[1]["difference"]["ap"] == better["intervals"]["ap"]
    back = paired.differences([two, one], "test", draws=200)
    again = next(r for r in back[1:] if r["method"] == "madad")
    assert again["ap"] == pytest.approx(-better["ap"])


def test_other_slices_and_unknown_rows_are_refused(tmp_path):
    one, _ = _run(tmp_path, "one", {"madad": 0.1})
    two, _ = _run(tmp_path, "two", {"madad": 0.1}, fingerprint="other")
    with pytest.raises(errors.UserError, match="two: set 'test' holds other slices"):
        paired.differences([one, two], "test")
    with pytest.raises(errors.UserError, match="found 'dae', accepted: madad"):
        paired.differences([one], "test", to="dae")
    with pytest.raises(errors.UserError, match=r"subjects\.npz: no such file"):
        paired.differences([one], "val")


def test_other_contrasts_of_the_same_slices_are_the_same_slices(tmp_path):
    one, _ = _run(tmp_path, "one", {"madad": 0.1}, same="a")
    two, _ = _run(tmp_path, "two", {"madad": 0.2}, "other", same="a", shown="test-T1")
    found = paired.differences([one, f"{two}@test-T1"], "test", draws=50)
    assert found[1]["run"] == "two@test-T1" and found[1]["ap"] > 0
    other, _ = _run(tmp_path, "three", {"madad": 0.1}, "other", same="b")
    with pytest.raises(errors.UserError, match="three: set 'test' holds other slices"):
        paired.differences([one, other], "test")


def test_tables_of_a_set_are_csv(tmp_path):
    one, _ = _run(tmp_path, "one", {"madad": 0.1})
    folder = epath.Path(one) / "eval" / "test"
    names = {p.name for p in folder.iterdir()}
    assert names == {"subjects.npz", "subjects.csv", "sizes.csv", "kinds.csv", "rates.csv"}
    lines = (folder / "subjects.csv").read_text().splitlines()
    assert len(lines) == 13 and lines[0].startswith("method,subject,n_slices")
    assert (folder / "rates.csv").read_text().startswith("method,asked,threshold,realised")
