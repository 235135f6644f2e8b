"""The latent cache on disk, and the stream of training batches from it."""

import json
import threading

import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data.input import augment, cached_latents, pipeline

_LAYOUT = cached_latents.Layout(5, (2, 2, 3))


def _bits(value):
    """The bfloat16 pattern of a float32 that needs no rounding."""
    return (np.asarray(value, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """make(slices, draws): a cache whose mean is the slice and whose log-variance the draw."""
    monkeypatch.setattr(cached_latents, "RECORDS_PER_SHARD", 4)

    def encode(draws):
        def records(part):
            for r in range(part.start, part.stop):
                mean, logvar = (np.full((2, 2, 3), v) for v in divmod(r, draws))
                yield _LAYOUT.pack(_bits(mean), _bits(logvar), np.eye(5, dtype=bool))

        return records

    def make(slices, draws):
        folder = epath.Path(tmp_path) / f"{slices}-{draws}"
        parts = cached_latents.list_parts("train", slices * draws)
        with cached_latents.lock(folder, 0):
            cached_latents.fill(folder, parts, encode(draws))
            cached_latents.finish(folder, parts, {})
        return cached_latents.CachedLatents(folder, "train", draws=draws, layout=_LAYOUT)

    return make


def _stream(cached, count, batches, seed=7, state=None):
    """(slices, draws) of the global stream, batch by batch."""
    iterators = [
        pipeline.train_iterator(
            cached, batch_size=4, seed=seed, process_index=p, process_count=count
        )
        for p in range(count)
    ]
    for iterator in iterators if state else ():
        iterator.restore(state)
    rows = []
    for _ in range(batches):
        for batch in [next(iterator) for iterator in iterators]:
            slices, draws = (batch[k][:, 0, 0, 0] for k in ("latent_mean", "latent_logvar"))
            rows += list(zip(slices.tolist(), draws.tolist(), strict=True))
    return rows, iterators[0].state()


@pytest.mark.parametrize("count", [2, 4])
def test_stream_does_not_depend_on_the_number_of_processes(cache, count):
    cached = cache(7, 3)
    assert _stream(cached, count, 6) == _stream(cached, 1, 6)


def test_slices_come_in_the_order_of_the_images_and_every_draw_is_used(cache, numbered):
    rows, _ = _stream(cache(7, 3), 1, 30)
    images = pipeline.train_iterator(numbered(7), batch_size=4, seed=7)
    numbers = np.concatenate([next(images)["image"][:, 0, 0, 0] * 100 for _ in range(30)])
    np.testing.assert_array_equal([s for s, _ in rows], numbers.round())
    counts = np.bincount([int(d) for _, d in rows])
    assert len(counts) == 3 and counts.min() > 20


@pytest.mark.parametrize("count", [1, 2])
def test_resumes_exactly(cache, count):
    cached = cache(7, 3)
    whole, _ = _stream(cached, 1, 6)
    _, state = _stream(cached, 1, 3)
    rest, _ = _stream(cached, count, 3, state=json.loads(json.dumps(state)))
    assert rest == whole[12:]


def test_pack_and_unpack_are_exact():
    rng = np.random.default_rng(0)
    mean, logvar = (rng.integers(0, 2**16, (2, 2, 3), np.uint16) & 0x7F7F for _ in range(2))
    mask = rng.random((5, 5)) < 0.5
    out = _LAYOUT.unpack(_LAYOUT.pack(mean, logvar, mask))
    np.testing.assert_array_equal(_bits(out["latent_mean"]), mean)
    np.testing.assert_array_equal(_bits(out["latent_logvar"]), logvar)
    np.testing.assert_array_equal(out["brain_mask"], mask)
    with pytest.raises(errors.UserError, match="has 3 bytes and 52 were expected"):
        _LAYOUT.unpack(b"abc")


def test_draws_depend_on_slice_and_draw_alone(numbered):
    options = {"draws": 3, "augment": augment.from_options({"style": "paper"}), "seed": 5}
    whole = cached_latents.Draws(numbered(4, side=16), start=0, stop=12, **options)
    part = cached_latents.Draws(numbered(4, side=16), start=7, stop=9, **options)
    assert len(part) == 2
    for i in range(2):
        np.testing.assert_array_equal(part[i]["image"], whole[7 + i]["image"])
    assert any((whole[3]["image"] != whole[4]["image"]).ravel())


@pytest.mark.parametrize("records", [0, 1, 4, 5, 23])
def test_parts_cover_every_record_once(records, monkeypatch):
    monkeypatch.setattr(cached_latents, "RECORDS_PER_SHARD", 4)
    parts = cached_latents.list_parts("val", records)
    assert [r for p in parts for r in range(p.start, p.stop)] == list(range(records))
    assert all(p.stop - p.start <= 4 for p in parts)


def test_hosts_without_a_common_folder_are_told(tmp_path):
    parts = cached_latents.list_parts("train", 1)
    with pytest.raises(errors.UserError, match=r"train-00000.*one folder that all hosts see"):
        cached_latents.finish(epath.Path(tmp_path), parts, {})


def test_a_second_run_waits_for_the_first(tmp_path):
    order = []
    entered = threading.Event()

    def other():
        entered.wait()
        with cached_latents.lock(epath.Path(tmp_path), 0):
            order.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with cached_latents.lock(epath.Path(tmp_path), 0):
        entered.set()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("name", ["shard", "manifest"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch, name):
    folder = epath.Path(tmp_path)
    part = cached_latents.list_parts("train", 3)
    if name == "manifest":
        cached_latents.fill(folder, part, lambda p: iter([b"a", b"b", b"c"]))
        write = type(folder).write_bytes

        def full(self, content):
            write(self, content[:3])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(folder), "write_bytes", full)
        with pytest.raises(errors.UserError, match=r"manifest.*No space left on device"):
            cached_latents.finish(folder, part, {})
        assert [p.name for p in tmp_path.iterdir()] == [part[0].name]
        return

    def records(p):
        yield b"a"
        raise OSError(28, "No space left on device")

    with pytest.raises(errors.UserError, match=r"train-00000.*No space left on device"):
        cached_latents.fill(folder, part, records)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"shards": []}', '{"shards": null}', "[" * 9999])
def test_a_damaged_manifest_is_written_anew(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert cached_latents.read_digests(epath.Path(tmp_path)) == {}
