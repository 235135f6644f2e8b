"""Contrasts and neighbours as channels, on slices of four pixels."""

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data import registry
from madad_jax.data.cohort import cohort
from madad_jax.data.sources import record as record_lib
from madad_jax.data.sources import stacked


class Flat:
    """Slices of one grey value: `values` by (subject, slice number)."""

    def __init__(self, name, values):
        self.values = list(values.values())
        self.records = [
            record_lib.Record(f"{s}-slice_{k:03d}", s, k, name, "spot" if v > 0.5 else "")
            for (s, k), v in values.items()
        ]

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        mask = np.ones((4, 4), bool)
        return {
            "image": np.full((4, 4, 1), self.values[index], np.float32),
            "brain_mask": mask,
            "segmentation": mask & (self.values[index] > 0.5),
            "has_segmentation": np.bool_(True),
        }

    def describe(self):
        return f"{len(self)} flat slices"

    def fingerprint(self):
        return record_lib.digest(self.values)


T1 = {("a", 10): 0.1, ("a", 12): 0.2, ("a", 14): 0.3, ("b", 10): 0.9}
FLAIR = {("b", 10): -0.9, ("a", 14): -0.3, ("c", 10): -0.4}


def both(neighbours=0, order=("T1", "FLAIR")):
    sources = {"T1": Flat("T1", T1), "FLAIR": Flat("FLAIR", FLAIR)}
    return stacked.Stacked(sources, order, neighbours)


def grey(element):
    values = [round(float(value), 3) for value in element["image"][0, 0]]
    return values, element["available"].tolist()


def test_slices_of_one_place_are_put_together_whatever_the_order_of_their_files():
    found = both()
    assert [(r.subject, r.slice) for r in found.records] == [
        ("a", 10), ("a", 12), ("a", 14), ("b", 10), ("c", 10),
    ]  # fmt: skip
    wanted = [[0.1, -1], [0.2, -1], [0.3, -0.3], [0.9, -0.9], [-1, -0.4]]
    there = [[True, False], [True, False], [True, True], [True, True], [False, True]]
    pairs = [grey(found[i]) for i in range(len(found))]
    assert pairs == [(w, t) for w, t in zip(wanted, there, strict=True)]
    turned = stacked.Stacked(
        {"FLAIR": Flat("FLAIR", dict(reversed(FLAIR.items()))), "T1": Flat("T1", T1)},
        ("T1", "FLAIR"),
    )
    assert [grey(turned[i]) for i in range(len(turned))] == pairs
    assert found.records[3].lesion_kind == "spot" and not found.records[4].lesion_kind
    assert found[3]["segmentation"].all() and not found[4]["segmentation"].any()


def test_neighbours_are_one_usual_step_away_and_missing_at_the_ends():
    found = stacked.Stacked({"T1": Flat("T1", T1)}, ("T1",), 1)
    pairs = [grey(found[i]) for i in range(3)]
    assert pairs[0] == ([0.1, -1.0, 0.2], [True, False, True])
    assert pairs[1] == ([0.2, 0.1, 0.3], [True, True, True])
    assert pairs[2] == ([0.3, 0.2, -1.0], [True, True, False])
    assert stacked.offsets(2) == (0, -1, 1, -2, 2)
    values, there = grey(both(1)[1])
    # Channels: own T1, own FLAIR, then both of slice 10 and both of slice 14.
    assert values == [0.2, -1.0, 0.1, -1.0, 0.3, -0.3]
    assert there == [True, False, True, False, True, True]


def test_a_subset_shows_its_contrasts_alone_on_slices_that_have_them():
    one = stacked.Restricted(both(1), ("T1",))
    assert [r.subject for r in one.records] == ["a", "a", "a", "b"] and one.left_out == 1
    values, there = grey(one[2])
    assert values[1::2] == [-1.0] * 3 and not any(there[1::2]) and there[0]
    pair = stacked.Restricted(both(), ("FLAIR", "T1"))
    assert [r.subject for r in pair.records] == ["a", "b"]
    prints = {both().fingerprint(), one.fingerprint(), pair.fingerprint()}
    assert len(prints) == 3
    alone = stacked.Stacked({"T1": Flat("T1", T1)}, ("T1", "FLAIR"))
    with pytest.raises(errors.UserError, match=r"eval.contrasts: found FLAIR, and none of the 4"):
        stacked.Restricted(alone, ("FLAIR",))


def test_one_slice_twice_is_refused():
    twice = Flat("T1", T1)
    twice.records[1] = twice.records[0]
    with pytest.raises(errors.UserError, match=r"slice 10 of subject 'a' is there twice"):
        stacked.Stacked({"T1": twice}, ("T1",))


def test_a_folder_may_lack_a_contrast_of_a_slice_or_of_a_split(write_slice, tmp_path):
    grey8, mask = np.full((4, 4), 51, np.uint8), np.full((4, 4), 255, np.uint8)
    write_slice("train", "p1-slice_3", T1=grey8, FLAIR=grey8 * 2, brainmask=mask)
    write_slice("train", "p1-slice_4", FLAIR=grey8, brainmask=mask)
    write_slice("val", "p2-slice_3", T1=grey8, brainmask=mask)
    options = {
        "name": "png_folder",
        "root": str(tmp_path),
        "image_size": 4,
        "contrasts": ("T1", "FLAIR"),
        "neighbours": 0,
    }
    train, val = (registry.make_stack(split, **options) for split in ("train", "val"))
    assert grey(train[0]) == ([-0.6, -0.2], [True, True])
    assert grey(train[1]) == ([-1.0, -0.6], [False, True])
    assert grey(val[0])[1] == [True, False]
    with pytest.raises(errors.UserError, match=r"no slices of modality 'PD'"):
        registry.make_stack("val", **options | {"contrasts": ("PD", "T2")})
    with pytest.raises(errors.UserError, match=r"data.source: found 'tfds' with data.modality"):
        registry.make_stack("val", **options | {"name": "tfds"})


def test_a_subject_of_the_cohort_has_one_anatomy_and_one_lesion_in_all_contrasts():
    sizes = cohort.Options(slices=2)
    for index in range(3):
        one, two = (
            cohort.draw_subject("test", index, modality=m, image_size=32, seed=0, options=sizes)
            for m in ("T1", "FLAIR")
        )
        np.testing.assert_array_equal(one.brain_mask, two.brain_mask)
        np.testing.assert_array_equal(one.segmentation, two.segmentation)
        assert (one.image != two.image).any()
