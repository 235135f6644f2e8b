import functools

import numpy as np
import pytest
from sklearn import metrics

from madad_jax.core import errors
from madad_jax.data import registry
from madad_jax.data.cohort import cohort, lesions
from madad_jax.data.sources import record

_SMALL = {
    "train": 2,
    "train_lesion": 2,
    "val": 1,
    "val_lesion": 1,
    "test": 2,
    "test_healthy": 1,
    "slices": 2,
    "slice_spacing": 8.0,
}


def _open(split="train", *, modality="T1", image_size=32, seed=0, cache_dir="", **sizes):
    return registry.make_source(
        split,
        name="cohort",
        modality=modality,
        image_size=image_size,
        cache_dir=str(cache_dir),
        seed=seed,
        cohort={**_SMALL, **sizes},
    )


@functools.cache
def _train():
    return _open()


def test_elements():
    source = _train()
    assert isinstance(source, record.Source) and len(source) == len(source.records) == 4
    for element in (source[i] for i in range(4)):
        image, mask = element["image"], element["brain_mask"]
        assert image.dtype == np.float32 and image.shape == (32, 32, 1)
        assert mask.dtype == bool and mask.shape == (32, 32)
        assert 0.15 < mask.mean() < 0.6
        assert np.all(image[~mask] == -1.0)
        assert image.min() >= -1.0 and image.max() <= 1.0 and image[mask].std() > 0.15
        assert isinstance(element["has_segmentation"], np.bool_) and element["has_segmentation"]
        assert not element["segmentation"].any()


def test_a_subject_drawn_alone_is_bit_equal():
    options = cohort.options_from_dict(_SMALL)
    alone = cohort.draw_subject("train", 1, modality="T1", image_size=32, seed=0, options=options)
    source = _train()
    for level in range(2):
        image = alone.image[level].astype(np.float32) * np.float32(2 / 65535) - 1
        np.testing.assert_array_equal(source[2 + level]["image"][..., 0], image)


def test_number_of_workers_changes_nothing():
    serial = _open(workers=1)
    for index in range(4):
        np.testing.assert_array_equal(serial[index]["image"], _train()[index]["image"])


def test_subjects_of_splits_and_seeds_differ():
    sources = [_open(split) for split in cohort.SPLITS] + [_open(seed=1)]
    names = [{r.subject for r in source.records} for source in sources[:-1]]
    assert len(set.union(*names)) == sum(len(name) for name in names)
    first = [source[0]["image"] for source in sources]
    for i, one in enumerate(first):
        for other in first[i + 1 :]:
            assert np.abs(one - other).max() > 0.5


def test_modalities_show_the_same_person():
    t1, t2 = _train(), _open(modality="T2")
    np.testing.assert_array_equal(t1[1]["brain_mask"], t2[1]["brain_mask"])
    mask = t1[1]["brain_mask"]
    correlation = np.corrcoef(t1[1]["image"][mask, 0], t2[1]["image"][mask, 0])[0, 1]
    assert correlation < -0.5  # Fluid is dark on T1 and bright on T2.


def test_sizes_show_the_same_person():
    small, large = _train()[0], _open(image_size=64)[0]
    halved = large["brain_mask"].reshape(32, 2, 32, 2).mean((1, 3)) >= 0.5
    both = halved & small["brain_mask"]
    assert both.sum() > 0.95 * (halved | small["brain_mask"]).sum()
    averaged = large["image"].reshape(32, 2, 32, 2).mean((1, 3))
    assert np.corrcoef(averaged[both], small["image"][both, 0])[0, 1] > 0.95


def test_lesions_are_recorded_where_they_are():
    source = _open("test")
    kinds = {r.subject: set() for r in source.records}
    for index, entry in enumerate(source.records):
        element = source[index]
        assert bool(entry.lesion_kind) == element["segmentation"].any()
        assert not np.any(element["segmentation"] & ~element["brain_mask"])
        kinds[entry.subject].add(entry.lesion_kind)
    assert kinds["test0000"] <= {"", "stroke"} and kinds["test0001"] <= {"", "tumour"}
    healthy = _open("test_healthy")
    assert not any(r.lesion_kind for r in healthy.records)
    assert "synthetic" in source.describe() and "subjects" in source.describe()


def test_fifteen_subjects_have_every_kind_in_every_size():
    assert len({cohort.lesion_class(i) for i in range(15)}) == 15
    assert {kind for kind, _ in map(cohort.lesion_class, range(5))} == set(lesions.KINDS)


def _forbid(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("drawn although cached")

    monkeypatch.setattr(cohort, "draw_subject", fail)


def test_cache_is_used_and_leaves_no_scraps(tmp_path, monkeypatch):
    drawn = _open(cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.tmp")) and len(list(tmp_path.rglob("*.npz"))) == 2
    _forbid(monkeypatch)
    again = _open(cache_dir=tmp_path)
    for index in range(4):
        for key in ("image", "brain_mask", "segmentation"):
            np.testing.assert_array_equal(again[index][key], drawn[index][key])
    for change in ({"seed": 1}, {"image_size": 64}, {"modality": "T2"}, {"slices": 3}):
        with pytest.raises(AssertionError, match="drawn although"):
            _open(cache_dir=tmp_path, **change)
    assert len(_open(cache_dir=tmp_path, train=1, test=9)) == 2  # Counts do not matter.
    monkeypatch.setattr(cohort, "GENERATOR_VERSION", 10**6)
    with pytest.raises(AssertionError, match="drawn although"):
        _open(cache_dir=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "other arrays"])
def test_damaged_cache_is_drawn_again(tmp_path, damage):
    _open(cache_dir=tmp_path)
    path = next(tmp_path.rglob("train-00000.npz"))
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 16
    if damage == "other arrays":
        np.savez(path, image=np.zeros((1, 2, 2), np.uint16))
    else:
        path.write_bytes(bytes(content[: {"truncated": 500, "empty": 0}.get(damage)]))
    again = _open(cache_dir=tmp_path)
    np.testing.assert_array_equal(again[0]["image"], _train()[0]["image"])
    assert path.read_bytes()[:2] == b"PK" and len(path.read_bytes()) > 1000


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.UserError, match=r"file.*cannot be written.*data.cache_dir"):
        _open(cache_dir=tmp_path / "file")


def test_bad_names_are_one_line_errors():
    with pytest.raises(errors.UserError, match="found 'T3', the embedded cohort has: T1"):
        _open(modality="T3")
    with pytest.raises(errors.UserError, match="split: found 'tests', the cohort has"):
        _open("tests")
    with pytest.raises(errors.UserError, match="unknown key 'tran'; did you mean 'train'"):
        _open(tran=3)
    with pytest.raises(errors.UserError, match=r"slices: found 40"):
        _open(slices=40)
    with pytest.raises(errors.UserError, match="did you mean 'cohort'"):
        registry.make_source("train", name="cohrt", modality="T1", image_size=32)
    with pytest.raises(errors.UserError, match=r"data\.root is empty"):
        registry.make_source("train", name="png_folder", modality="T1", image_size=32)


def test_distance_to_the_mean_image_finds_little():
    """Were subjects alike, the mean of the training images would be an oracle."""
    train = _open(train=8)
    test = _open("test", test=5)
    mean = np.mean([train[i]["image"][..., 0] for i in range(len(train))], axis=0)
    masks = [test[i]["brain_mask"] for i in range(len(test))]
    truth = np.concatenate([test[i]["segmentation"][m] for i, m in enumerate(masks)])
    far = [np.abs(test[i]["image"][..., 0] - mean)[m] for i, m in enumerate(masks)]
    assert truth.any()
    assert metrics.average_precision_score(truth, np.concatenate(far)) < 5 * truth.mean()
