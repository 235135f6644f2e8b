"""What a file claims is held against what it is, before time or memory go to it."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from madad_jax.convert import containers, conversion, tensors, torch_file, unpickle
from madad_jax.core import errors
from tests.convert import cases
from tests.convert import torch_files as files

MARK = "input_blocks.0.0.weight"


def load(tmp_path, data, kind="unet"):
    file = tmp_path / "weights.pt"
    file.write_bytes(data)
    return containers.load(file, kind)


def refused(tmp_path, data, match, most=2**25, kind="unet"):
    """The message; nothing larger than `most` bytes may be made on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(errors.UserError, match=match) as caught:
            load(tmp_path, data, kind)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000 + len(str(tmp_path))
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_tensors_that_repeat_a_storage_are_bounded_by_the_file(tmp_path, write):
    base = np.zeros(20_000, np.float32)
    many = {MARK: files.tensor(np.ones(2, np.float32))}
    # Each is as large as the file allows one to be; together they would be 48 MB.
    many |= {f"k{i}": files.View(base, 0, (60_000,), (0,)) for i in range(200)}
    refused(tmp_path, write(many), r"unpack to \d+ numbers, the file has \d+ bytes")


def test_a_storage_that_many_tensors_share_is_read_once(tmp_path, monkeypatch):
    """Tensors of two storages take turns: without an order each would be read 50 times."""
    bases = [np.arange(200_000, dtype=np.float32) + n for n in range(2)]
    views = {f"k{i}": files.View(bases[i % 2], i, (3,), (1,)) for i in range(100)}
    views[MARK] = files.View(bases[0], 0, (2,), (1,))
    data, opened = files.zip_bytes(views), []
    whole = zipfile.ZipFile.open

    def counted(self, name, *args, **kwargs):
        opened.append(name)
        return whole(self, name, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)
    got = load(tmp_path, data).state
    assert list(got) == list(views)
    for i in range(100):
        np.testing.assert_array_equal(got[f"k{i}"], np.arange(3) + i + i % 2)
    assert len(opened) == 4  # the pickle, the byte order, and two storages


def test_of_a_large_storage_only_what_is_asked_for_is_converted():
    bits = np.zeros(2_000_000, np.uint16)
    storage = tensors.Storage("bfloat16", len(bits), bits.tobytes)
    tensor = tensors.Tensor("f", storage, 7, (2, 2), (5, 1))
    tracemalloc.start()
    tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # the bytes once, and not their float32


def test_entries_that_lie_on_one_another_are_refused(tmp_path):
    data = files.zip_bytes(files.tensors({MARK: np.ones(100, np.float32)}))
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = archive.getinfo("archive/data/0")
        for i in range(50):  # in the directory alone; the bytes are there once
            again = zipfile.ZipInfo(f"archive/data/x{i}")
            again.header_offset, again.CRC = entry.header_offset, entry.CRC
            again.file_size = again.compress_size = entry.file_size
            archive.filelist.append(again)
        archive._didModify = True
    refused(tmp_path, buffer.getvalue(), r"its entries hold \d+ bytes of \d+")


def test_an_archive_that_unpacks_to_far_more_than_it_weighs_is_refused(tmp_path):
    file = tmp_path / "vectors.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "ab":
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array_header_1_0(
                    entry, {"descr": "<f4", "fortran_order": False, "shape": (10 << 20,)}
                )
                for _ in range(40):
                    entry.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(errors.UserError, match=r"2 arrays that unpack to 8388\d+ bytes; accepted"):
        containers.read_arrays(file, "--verify")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def safetensors(header, body=b""):
    return len(header).to_bytes(8, "little") + header + body


def test_claims_of_a_safetensors_header(tmp_path):
    entry = b'"dtype":"F32","data_offsets":[0,4]'
    axes = b'{"a":{%s,"shape":[%s]}}' % (entry, b",".join([b"1"] * 100_000))
    refused(tmp_path, safetensors(axes, bytes(4)), "at most 32 axes")
    deep = b'{"a":{%s,"shape":%s}}' % (entry, b"[" * 5000 + b"]" * 5000)
    refused(tmp_path, safetensors(deep, bytes(4)), "nested deeper")
    digits = b'{"a":{%s,"shape":[%s]}}' % (entry, b"9" * 10_000)
    refused(tmp_path, safetensors(digits, bytes(4)), "header")
    long = b'{"%s":{"dtype":"%s","shape":[1],"data_offsets":[0,4]}}' % (b"k" * 10**6, b"x" * 10**6)
    refused(tmp_path, safetensors(long, bytes(4)), "element type x+…")
    refused(tmp_path, (2**39).to_bytes(8, "little") + b"{}", "a header of 549755813888 bytes in")
    entries = b",".join(
        b'"k%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(1000)
    )
    assert (
        len(
            load(
                tmp_path, safetensors(b'{"%s":%s,%s}' % (MARK.encode(), ENTRY, entries), bytes(4))
            ).state
        )
        == 1001
    )


ENTRY = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def test_the_number_of_tensors_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MAX_TENSORS", 50)
    state = {f"k{i}": np.ones(1, np.float32) for i in range(51)}
    refused(tmp_path, files.zip_bytes(files.tensors(state)), "more than 50 entries")
    names = b",".join(b'"k%d":%s' % (i, ENTRY) for i in range(51))
    refused(tmp_path, safetensors(b"{%s}" % names, bytes(4)), "51 tensors; accepted are at most 50")


def test_long_words_are_shortened_wherever_they_stand(tmp_path):
    """Each a megabyte: of a key, a storage, an element type, a class, a module's child."""
    long, base = "k" * 10**6, np.ones(3, np.float32)
    plain, _ = files.dump({MARK: files.tensor(base)})
    refused(tmp_path, files.zip_bytes({long: files.tensor(base)}), "a tensor is called")
    refused(tmp_path, files.zip_bytes({long: {long: files.tensor(base)}}), "a tensor is called")
    refused(tmp_path, files.zip_bytes(files.module({long: {"w": base}})), "a tensor is called")
    refused(tmp_path, files.zip_bytes(files.Call(f"torch.{long}", 1)), "asks to run torch")
    refused(tmp_path, files.zip_bytes({long: 1}), "a tensor is called")
    refused(tmp_path, files.zip_bytes(files.Object(f"torch.{long}", a=1)), "found torch")
    for old, new in ((b"FloatStorage", long.encode()), (b"\x01\x00\x00\x000", LONG_KEY)):
        changed = plain.replace(old, new)
        assert changed != plain
        refused(tmp_path, files.zip_bytes({}, data=changed), "kkk|element type k")


LONG_KEY = (10**6).to_bytes(4, "little") + b"k" * 10**6


def test_a_long_name_in_a_deep_module_does_not_multiply(tmp_path):
    """One name of 200 characters, sixty modules deep."""
    tree = leaf = files.module({})
    for _ in range(60):
        inner = files.module({})
        leaf.attributes["_modules"]["n" * 200] = inner
        leaf = inner
    refused(tmp_path, files.zip_bytes(tree), "a tensor is called")


def test_a_value_of_values_is_not_written_out(tmp_path):
    """A list that holds the one before twice, sixty times: its text would have 2**60 words."""
    doubled = b"]" + b"q\x00" + b"](h\x00h\x00eq\x00" * 60
    view = files.dump({MARK: files.View(np.ones(3, np.float32), 0, (1,), (1,))})[0]
    changed = view.replace(b"K\x01\x85", doubled + b"\x85")
    assert changed != view
    refused(tmp_path, files.zip_bytes({}, data=changed), "no whole numbers")


def test_a_pickle_has_a_bounded_number_of_steps(monkeypatch):
    monkeypatch.setattr(unpickle, "_MAX_STEPS", 1000)
    with pytest.raises(errors.UserError, match="more than 1000 steps"):
        unpickle.Machine("f", {}).load(io.BytesIO(b"(" + b"]" * 2000 + b"l."))


def test_copies_of_frozen_sets_count():
    calls = torch_file._calls("f", 1000)
    data = b"(" + b"".join(b"K%c" % i for i in range(200)) + b"\x91q\x00"
    data += b"c__builtin__\nset\nh\x00\x85R0" * 200 + b"N."
    with pytest.raises(errors.UserError, match="over and over"):
        unpickle.Machine("f", calls, max_copies=2000).load(io.BytesIO(data))


def test_states_given_over_and_over_are_refused():
    data = b"\x80\x02cm\nC\n)\x81" + b"}(X\x01\x00\x00\x00aK\x01ub" * 100 + b"."
    with pytest.raises(errors.UserError, match="over and over"):
        unpickle.Machine("f", {}).load(io.BytesIO(data))


@pytest.mark.parametrize(
    ("kind", "key", "shape"),
    [
        ("unet", MARK, (0, 4, 3, 3)),
        ("unet", MARK, (33, 4, 3, 3)),
        ("unet", "input_blocks.1.0.out_layers.3.weight", (1, 32, 3, 3)),
        ("autoencoder", "encoder.conv_in.weight", (0, 1, 3, 3)),
        ("autoencoder", "encoder.conv_in.weight", (7, 1, 3, 3)),
        ("autoencoder", "decoder.up.0.block.0.conv1.weight", (0,)),
        ("dit", "x_embedder.proj.weight", (64, 4, 0, 0)),
        ("dit", "x_embedder.proj.weight", (65, 4, 2, 2)),
        ("dit", "blocks.0.mlp.fc1.weight", ()),
    ],
)
def test_shapes_that_make_no_network_are_one_line(kind, key, shape):
    states = {"unet": cases.unet_state, "autoencoder": cases.vae_state, "dit": cases.dit_state}
    state = states[kind]() | {key: np.zeros(shape, np.float32)}
    with pytest.raises(errors.UserError) as caught:
        conversion.convert(kind, state)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("kind", "option"), [("unet", "num_heads"), ("autoencoder", "num_groups")])
def test_heads_and_groups_that_do_not_divide_the_width(kind, option):
    state = {"unet": cases.unet_state, "autoencoder": cases.vae_state}[kind]()
    for value in (7, -1, 2**40):
        with pytest.raises(errors.UserError):
            conversion.convert(kind, state, **{option: value})


def test_a_network_of_a_thousand_blocks_is_not_traced():
    state = cases.dit_state() | {f"blocks.{i}.x": np.zeros(1, np.float32) for i in range(1000)}
    with pytest.raises(errors.UserError, match="more than 512 parts"):
        conversion.convert("dit", state)
