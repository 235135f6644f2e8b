"""PNG folder, ArrayRecord shards and TFDS data set hold the same slices."""

import json
import shutil

import cv2
import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data import registry, slice_marks
from madad_jax.data.input import pipeline
from madad_jax.data.sources import array_record, pack, png_folder, tfds_builder
from tests import holder

RECORD = {"id": "a", "subject": "s", "slice": 1, "modality": "T1"}
_SPLITS = {"train": 5, "val": 2, "test": 3, "test_healthy": 1}


def _write_folder(root, depth=np.uint8, kinds=("T1", "T2")):
    rng = np.random.default_rng(0)
    top = np.iinfo(depth).max
    for split, count in _SPLITS.items():
        (root / split).mkdir(parents=True)
        for i in range(count):
            stem = root / split / f"{split}-{'cab'[i % 3]}{i}-slice_{9 + i}"
            side = 20 + 2 * i  # of several sizes, not square
            for kind in kinds:
                image = rng.integers(0, top, (side, side + 4), depth, endpoint=True)
                cv2.imwrite(f"{stem}-{kind}.png", image)
            mask = rng.integers(0, 2, (side, side + 4)).astype(np.uint8)
            cv2.imwrite(f"{stem}-brainmask.png", mask * 255)
            if split == "test" and i:
                cv2.imwrite(f"{stem}-segmentation.png", mask * 200)
    (root / "dataset.json").write_text('{"geometry": {}}')


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{source: root} of the same slices."""
    root = tmp_path_factory.mktemp("png")
    out = tmp_path_factory.mktemp("packed")
    _write_folder(root)
    pack.pack(root, out, ("array_record", "tfds"))
    return {"png_folder": root, "array_record": out, "tfds": out}


def _open(roots, name, split="train", modality="T1", size=16):
    root = str(roots[name])
    return registry.make_source(split, name=name, root=root, modality=modality, image_size=size)


@pytest.mark.parametrize("name", ["array_record", "tfds"])
@pytest.mark.parametrize("split", _SPLITS)
@pytest.mark.parametrize("modality", ["T1", "T2"])
def test_same_slices_in_the_same_order(roots, name, split, modality):
    ours, theirs = (_open(roots, n, split, modality) for n in (name, "png_folder"))
    assert ours.records == theirs.records and len(ours) == _SPLITS[split]
    for i in range(len(ours)):
        a, b = ours[i], theirs[i]
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            assert a[key].dtype == b[key].dtype
        assert ours.read_encoded(i).image.content == theirs.read_encoded(i).image.content
    assert f"{_SPLITS[split]} {modality} slices" in ours.describe()


@pytest.mark.parametrize("name", ["array_record", "tfds"])
def test_a_slice_keeps_its_mark_when_it_is_packed(roots, name):
    plain = slice_marks.list_marks(_open(roots, "png_folder"))
    packed = slice_marks.list_marks(_open(roots, name))
    assert plain.keys() == packed.keys() and not any(
        slice_marks.differ(plain[k], packed[k]) or slice_marks.differ(packed[k], plain[k])
        for k in plain
    )


def test_marks_differ_by_size_and_by_content_where_it_is_known():
    assert slice_marks.differ("8+9", "8+7") and slice_marks.differ("8+9:aa", "8+9:ab")
    assert slice_marks.differ("8+9:aa", "8+7") and not slice_marks.differ("", "8+9")
    assert not slice_marks.differ("8+9:aa", "8+9") and not slice_marks.differ("8+9", "8+9:aa")


def test_training_reads_the_same_batches(roots):
    streams = [
        pipeline.train_iterator(
            _open(roots, name), batch_size=4, seed=3, augment={"style": "paper"}, num_threads=2
        )
        for name in roots
    ]
    for _ in range(4):
        first, *others = [next(stream) for stream in streams]
        for other in others:
            np.testing.assert_array_equal(other["image"], first["image"])
            np.testing.assert_array_equal(other["brain_mask"], first["brain_mask"])


@pytest.mark.parametrize("name", ["png_folder", "array_record", "tfds"])
def test_the_healthy_companion_is_found(roots, name):
    where = {"name": name, "root": str(roots[name]), "modality": "T1"}
    assert registry.has_split("test_healthy", **where)
    assert not registry.has_split("val_healthy", **where)


def test_geometry_goes_with_the_slices(roots):
    text = (roots["png_folder"] / "dataset.json").read_text()
    assert (roots["array_record"] / "dataset.json").read_text() == text
    assert (tfds_builder.find(roots["tfds"]) / "dataset.json").read_text() == text


def test_tfds_itself_reads_it(roots):
    import tensorflow_datasets as tfds

    data = tfds.data_source("brain_slices/uint8", split="test", data_dir=roots["tfds"])
    assert len(data) == 2 * _SPLITS["test"]
    shapes = {np.asarray(example["image"]).shape for example in data}
    assert shapes == {(20, 24, 1), (22, 26, 1), (24, 28, 1)}


@pytest.mark.parametrize("name", ["array_record", "tfds"])
def test_again_changes_nothing_and_changed_slices_are_packed_anew(tmp_path, name):
    root, out = tmp_path / "png", tmp_path / "out"
    _write_folder(root, kinds=("T1",))
    pack.pack(root, out, (name,))

    def files():
        shards = [p for p in out.rglob("*") if "array_record" in p.name and p.is_file()]
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards}

    before = files()
    assert all("was there" in line for line in pack.pack(root, out, (name,)))
    assert files() == before
    first = next((root / "train").glob("*-T1.png"))
    cv2.imwrite(str(first), cv2.imread(str(first), cv2.IMREAD_GRAYSCALE) // 2)
    pack.pack(root, out, (name,))
    train = {k: v for k, v in files().items() if "train" in k}
    assert {k: v[1] for k, v in train.items()} != {k: before[k][1] for k in train}


def test_several_shards(roots, tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "RECORDS_PER_SHARD", 2)
    pack.pack(roots["png_folder"], tmp_path, ("array_record",))
    assert len(list(tmp_path.glob("train-T1-*-of-00003.array_record"))) == 3
    ours = registry.make_source(
        "train", name="array_record", root=str(tmp_path), modality="T1", image_size=16
    )
    for a, b in zip(ours, _open(roots, "png_folder"), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_sixteen_bit(tmp_path):
    root, out = tmp_path / "png", tmp_path / "out"
    _write_folder(root, np.uint16, ("T1",))
    pack.pack(root, out, ("tfds",))
    assert (out / "brain_slices" / "uint16").is_dir()
    ours = tfds_builder.TfdsFolder(str(out), split="train", modality="T1", image_size=16)
    theirs = png_folder.PngFolder(str(root), split="train", modality="T1", image_size=16)
    np.testing.assert_array_equal(ours[1]["image"], theirs[1]["image"])


@pytest.mark.parametrize("name", ["array_record", "tfds"])
def test_a_damaged_png_is_named_and_nothing_partial_remains(tmp_path, name):
    root, out = tmp_path / "png", tmp_path / "out"
    _write_folder(root, kinds=("T1",))
    path = sorted((root / "train").glob("*-T1.png"))[-1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(errors.UserError, match=rf"{path.name}' is not a readable PNG"):
        pack.pack(root, out, (name,))
    assert not list(out.rglob("train-T1.json")) and not list(out.rglob("dataset_info.json"))


def test_two_depths_in_one_tfds_set_are_refused(tmp_path):
    root = tmp_path / "png"
    _write_folder(root, kinds=("T1",))
    path = sorted((root / "train").glob("*-T1.png"))[-1]
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16))
    with pytest.raises(errors.UserError, match=rf"{path.name}' is uint16 and the data set uint8"):
        pack.pack(root, tmp_path / "out", ("tfds",))


@pytest.mark.parametrize(
    "name,split,modality,message",
    [
        ("array_record", "dev", "T1", r"dev-T1\.json' does not exist.*train-T1, train-T2"),
        ("array_record", "train", "FLAIR", r"train-FLAIR\.json' does not exist"),
        ("tfds", "dev", "T1", "has no split 'dev'; found: .*train"),
        ("tfds", "train", "FLAIR", "no slices of modality 'FLAIR'; found: T1, T2"),
    ],
)
def test_what_is_not_there_says_what_is(roots, name, split, modality, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        _open(roots, name, split, modality)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["png_folder", "array_record", "tfds"])
def test_an_empty_root_is_told_what_goes_there(tmp_path, name):
    with pytest.raises(errors.UserError, match=r"data\.root is empty; set it to the "):
        _open({name: ""}, name)
    with pytest.raises(errors.UserError, match=str(tmp_path)):
        _open({name: tmp_path}, name)


def test_a_subject_in_two_splits_is_refused(roots, tmp_path):
    shutil.copytree(roots["array_record"], tmp_path / "copy")
    index = tmp_path / "copy" / "val-T2.json"
    content = json.loads(index.read_text())
    content["records"][0]["subject"] = _open(roots, "array_record").records[0].subject
    index.write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match="is in both 'train' and 'val'"):
        _open({"array_record": tmp_path / "copy"}, "array_record")


@pytest.mark.parametrize("damage", ["shard gone", "index", "index of others", "bit"])
def test_damaged_shards_are_named(roots, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(roots["array_record"], copy)
    shard = copy / "train-T1-00000-of-00001.array_record"
    index = copy / "train-T1.json"
    if damage == "shard gone":
        shard.unlink()
    elif damage == "index":
        index.write_text("{}")
    elif damage == "index of others":
        content = json.loads(index.read_text())
        content["records"].pop()
        index.write_text(json.dumps(content))
    else:
        content = bytearray(shard.read_bytes())
        content[900] ^= 1
        shard.write_bytes(bytes(content))
    with pytest.raises(errors.UserError, match="train-T1") as caught:
        list(_open({"array_record": copy}, "array_record"))
    assert "\n" not in str(caught.value)


def test_beside_the_slices(tmp_path):
    """One root for every source; what is packed does not disturb the folder."""
    _write_folder(tmp_path, kinds=("T1",))
    pack.pack(tmp_path, tmp_path, ("array_record", "tfds"))
    assert pack.main([f"--in={tmp_path}"]) == 0
    images = [_open({n: tmp_path}, n)[0]["image"] for n in registry.SOURCES if n != "cohort"]
    assert len(images) == 3
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


def test_a_split_that_no_file_name_could_tell_is_refused(tmp_path):
    _write_folder(tmp_path, kinds=("T1",))
    (tmp_path / "test").rename(tmp_path / "test-b")
    with pytest.raises(errors.UserError, match="test-b': the name of a packed split"):
        pack.pack(tmp_path, tmp_path, ("array_record",))


def test_a_second_packing_into_the_same_folder_is_refused(roots, tmp_path, capsys):
    with holder.held(tmp_path / "out") as first:
        status = pack.main([f"--in={roots['png_folder']}", f"--out={tmp_path / 'out'}"])
        left = sorted(p.name for p in (tmp_path / "out").iterdir())
    said = capsys.readouterr().err
    assert status == 2 and f"process {first.pid} on '" in said and len(said.splitlines()) == 1
    assert left == [".lock"]


def test_command(roots, tmp_path, capsys):
    arguments = [f"--in={roots['png_folder']}", f"--out={tmp_path}", "--format=array_record"]
    assert pack.main(arguments) == 0
    assert "train-T1: 5 slices" in capsys.readouterr().out
    assert pack.main([*arguments[:2], "--format=zip"]) == 2
    message = "error: format: found 'zip', accepted: array_record, tfds\n"
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.parametrize(
    "index",
    [
        *([], None, {}, {"records": []}, {"fingerprint": "x", "records": {}}),
        {"fingerprint": 3, "records": []},
        {"fingerprint": "x", "records": [3]},
        {"fingerprint": "x", "records": [{"id": "a"}]},
        *(
            {"fingerprint": "x", "records": [{**RECORD, key: value}]}
            for key, value in (("id", 3), ("slice", "1"), ("subject", None), ("other", 1))
        ),
    ],
)
def test_an_index_of_another_kind_is_named(tmp_path, index):
    (tmp_path / "train-T1.json").write_text(json.dumps(index))
    with pytest.raises(errors.UserError, match=r"train-T1\.json") as error:
        array_record.read_index(epath.Path(tmp_path), "train", "T1")
    assert "\n" not in str(error.value)


def test_packing_tells_what_it_passes_over(tmp_path):
    _write_folder(tmp_path / "png", kinds=("T1",))
    picture = tmp_path / "png" / "test" / "test-c0-slice_9-T1.png"
    shutil.copy(picture, picture.with_name("test-c0-slice_9-seg.png"))
    lines = pack.pack(tmp_path / "png", tmp_path / "out", ("array_record",))
    assert any("1 files '-seg.png' are not taken" in line for line in lines)
    assert not list((tmp_path / "out").glob("*-seg*"))
