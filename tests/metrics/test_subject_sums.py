import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import bootstrap, subject_sums, threshold_counts


def _filled(n, max_units=subject_sums.MAX_UNITS, seed=0):
    rng = np.random.default_rng(seed)
    out = subject_sums.Subjects(max_units)
    for i in range(n):
        scores = rng.poisson(0.01, (2, bootstrap.N_BINS))
        out.add(f"p{i % max(1, n // 2)}", scores, rng.random(threshold_counts.N_THRESHOLDS))
    return out


def test_file_reads_back_whole():
    sums = _filled(8).sums
    content = subject_sums.to_bytes({"a": sums, "b": {}}, {"fingerprint": "x"})
    read, facts = subject_sums.from_bytes(content, "f")
    assert facts == {"fingerprint": "x"} and list(read) == ["a", "b"] and read["b"] == {}
    for name, one in sums.items():
        np.testing.assert_array_equal(read["a"][name].scores, one.scores)
        np.testing.assert_array_equal(read["a"][name].dice, one.dice)
        assert read["a"][name].slices == one.slices == 2


@pytest.mark.parametrize("cut", [0, 30, -40])
def test_damaged_file_is_named(cut):
    content = subject_sums.to_bytes({"a": _filled(8).sums}, {})
    with pytest.raises(errors.UserError, match=r"f\.npz: not readable per-subject sums"):
        subject_sums.from_bytes(content[:cut] if cut else b"", "f.npz")


def test_many_subjects_are_gathered_and_nothing_is_lost():
    few, many = _filled(40), _filled(40, max_units=5)
    assert many.bundled and not few.bundled
    assert len(many.sums) <= 5 and len(few.sums) == 20
    for field in ("scores", "dice", "slices"):
        total = [sum(getattr(s, field) for s in x.sums.values()) for x in (few, many)]
        np.testing.assert_allclose(*total)


def test_rows_are_the_figures_of_each():
    sums = _filled(8).sums
    found = subject_sums.rows(sums)
    assert [r["subject"] for r in found] == sorted(sums)
    alone = bootstrap.draw_figures([sums["p0"]], np.ones((1, 1)))
    assert found[0]["ap"] == pytest.approx(alone["ap"][0])
    assert found[0]["lesion_pixels"] == sums["p0"].scores[0].sum()
