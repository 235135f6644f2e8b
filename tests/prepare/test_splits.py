"""People in splits: stable, by published lists, never in two."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.prepare import splits, subject

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def item(scan, person=None):
    return subject.Item(scan, person or scan, "", {"T1": f"in/{scan}-T1.nii.gz"})


@hypothesis.settings(max_examples=25)
@given(
    st.sets(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=1, max_size=12),
    st.integers(0, 9),
)
def test_nobody_moves_when_others_join_but_who_is_lent(people, seed):
    everyone = [item(person) for person in sorted(people)]
    together, _ = splits.assign(everyone, fractions=FRACTIONS, seed=seed)
    lent = splits.lent(together, FRACTIONS, seed)
    assert len(lent) <= 2
    for one in everyone:
        alone, _ = splits.assign([one], fractions=FRACTIONS, seed=seed)
        assert (alone[0] in together) == (one.subject not in lent)


def test_shares_are_met_and_depend_on_the_seed():
    found = [[splits.by_hash(f"p{k}", FRACTIONS, seed) for k in range(2000)] for seed in (0, 1)]
    for split, share in FRACTIONS.items():
        assert found[0].count(split) / 2000 == pytest.approx(share, abs=0.03)
    assert found[0] != found[1]
    assert splits.by_hash("x", {"train": 0.0, "val": 0.0, "test": 1.0}, 0) == "test"


def test_scans_of_a_person_stay_together():
    scans = [item(f"p{k}-{visit}", f"p{k}") for k in range(50) for visit in range(3)]
    placed, _ = splits.assign(scans, fractions=FRACTIONS, seed=3)
    for k in range(50):
        assert len({i.split for i in placed if i.subject == f"p{k}"}) == 1


def test_lists(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("age,Subject,split\n3,a,train\n4,b,validation\n5,c,TEST\n")
    lists = splits.read_lists(str(path))
    assert lists == {"a": "train", "b": "val", "c": "test"}
    placed, unlisted = splits.assign(
        [item("a"), item("b"), item("z")], fractions=FRACTIONS, seed=0, lists=lists
    )
    assert [i.split for i in placed] == ["train", "val"] and unlisted == ["z"]


def test_a_file_for_each_split_by_image_name(tmp_path):
    (tmp_path / "train.csv").write_text("img_name,age\na-T1,30\n")
    (tmp_path / "test.txt").write_text("b\nc\n")
    lists = splits.read_lists(f"train={tmp_path / 'train.csv'},test={tmp_path / 'test.txt'}")
    placed, _ = splits.assign([item("a"), item("c")], fractions={}, seed=0, lists=lists)
    assert [i.split for i in placed] == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,split\na,train\na,test\n", "in both 'train' and 'test'"),
        ("subject,split\na,trian\n", "found 'trian'"),
        ("subject,split\na\n", "line 2"),
        ("person,split\na,train\n", "accepted: one of"),
        ("\n", "is empty"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    path = tmp_path / "lists.csv"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=message):
        splits.read_lists(str(path))


def test_two_scans_of_a_person_in_two_splits():
    scans = [item("p-1", "p"), item("p-2", "p")]
    with pytest.raises(errors.UserError, match="person 'p' is in both"):
        splits.assign(scans, fractions={}, seed=0, lists={"p-1": "train", "p-2": "test"})
    with pytest.raises(errors.UserError, match="none of 2 scans is listed"):
        splits.assign(scans, fractions={}, seed=0, lists={"q": "train"})


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"trian": 1.0}, {"train": "x"}, {}])
def test_bad_shares(shares):
    with pytest.raises(errors.UserError):
        splits.check_fractions(shares, "fractions")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("people", [5, 7, 12])
def test_a_small_cohort_has_two_people_to_choose_thresholds_on(people, seed):
    scans = [item(f"p{k}-{n}", f"p{k}") for k in range(people) for n in (1, 2)]
    placed, _ = splits.assign(scans, fractions=FRACTIONS, seed=seed)
    where = {i.subject: i.split for i in placed}
    assert len({(i.subject, i.split) for i in placed}) == people, "nobody stands in two splits"
    hashed = {p: splits.by_hash(p, FRACTIONS, seed) for p in where}
    moved = splits.lent(placed, FRACTIONS, seed)
    count = {split: list(where.values()).count(split) for split in splits.SPLITS}
    enough = list(hashed.values()).count("train") >= 5
    assert count["val"] >= 2 or not enough
    assert {p for p in where if where[p] != hashed[p]} == set(moved)
    assert all(hashed[p] == "train" and where[p] == "val" for p in moved)
    assert not moved or list(hashed.values()).count("val") + len(moved) == 2


@pytest.mark.parametrize("seed", range(4))
def test_who_is_lent_stands_next_to_val(seed):
    """With a little more for `val`, the hash itself would have put them there first."""
    scans = [item(f"p{k}") for k in range(7)]
    placed, _ = splits.assign(scans, fractions=FRACTIONS, seed=seed)
    moved = set(splits.lent(placed, FRACTIONS, seed))
    for share in np.linspace(0.1, 0.9, 161):
        wider = {"train": 0.9 - share, "val": share, "test": 0.1}
        reached = {f"p{k}" for k in range(7) if splits.by_hash(f"p{k}", wider, seed) == "val"}
        reached &= {
            i.subject for i in scans if splits.by_hash(i.subject, FRACTIONS, seed) == "train"
        }
        assert moved <= reached or reached <= moved


def test_who_is_lent_depends_on_nothing_but_the_people():
    scans = [item(f"p{k}") for k in range(7)]
    one, _ = splits.assign(scans, fractions=FRACTIONS, seed=1)
    other, _ = splits.assign(scans[::-1], fractions=FRACTIONS, seed=1)
    assert {i.subject: i.split for i in one} == {i.subject: i.split for i in other}
    only_test, _ = splits.assign(scans, fractions={"test": 1.0}, seed=1)
    assert {i.split for i in only_test} == {"test"}
