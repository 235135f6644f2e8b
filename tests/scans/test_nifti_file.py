"""Bytes of NIfTI files: every claim is held against the length, every checksum is reached."""

import gzip
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import nifti_file, volumes
from tests import damage

DATA = np.random.default_rng(0).integers(1, 900, (9, 10, 11)).astype(np.int16)


def content(data=DATA, kind=nib.Nifti1Image, **fields):
    """A file's bytes, with header fields as they are given."""
    image = kind(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.header["scl_slope"], image.header["scl_inter"] = 1.0, 0.0
    made = bytearray(image.to_bytes())
    size = image.header.sizeof_hdr
    header = type(image.header)(bytes(made[:size]), check=False)
    for name, value in fields.items():
        header[name] = value
    made[:size] = header.binaryblock
    return bytes(made)


def read(folder, made, name="a.nii"):
    path = folder / name
    path.write_bytes(made)
    return volumes.read(path)


def refuses(folder, made, text):
    for name in ("a.nii", "b.nii.gz"):
        packed = gzip.compress(made) if name.endswith("gz") else made
        with pytest.raises(errors.UserError, match=text) as error:
            read(folder, packed, name)
        assert str(folder / name) in str(error.value) and "\n" not in str(error.value)


def test_single_flipped_bits_of_a_packed_file_never_change_the_picture(tmp_path):
    """300 flips, drawn by a seed: refused with the name, or the very same voxels."""
    whole = gzip.compress(content(), mtime=0)
    expected = read(tmp_path, whole).data
    refused = 0
    for seed in range(300):
        try:
            found = read(tmp_path, damage.flip_bits(whole, seed, most=1)).data
        except errors.UserError as error:
            assert str(tmp_path / "a.nii") in str(error) and "\n" not in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert refused > 280


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_any_damage_is_one_line_or_a_volume(tmp_path, packed):
    whole = gzip.compress(content(), mtime=0) if packed else content()
    expected = read(tmp_path, whole).data
    for seed in range(120):
        kind, damaged = damage.damaged(whole, seed)
        try:
            found = read(tmp_path, damaged)
        except errors.UserError as error:
            assert str(tmp_path / "a.nii") in str(error) and "\n" not in str(error)
        else:
            if packed or kind in ("cut", "grow"):
                np.testing.assert_array_equal(found.data, expected)


def test_members_of_gzip_are_one_stream(tmp_path):
    whole = content()
    for cuts in ((100,), (348, 352), (700, 701, 1500)):
        pieces = np.split(np.frombuffer(whole, np.uint8), cuts)
        packed = b"".join(gzip.compress(piece.tobytes()) for piece in pieces)
        np.testing.assert_array_equal(read(tmp_path, packed).data, read(tmp_path, whole).data)
        assert volumes.describe(tmp_path / "a.nii").startswith("9 x 10 x 11 voxels of 2.00")
        damaged = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
        with pytest.raises(errors.UserError, match="damaged: CRC"):
            read(tmp_path, damaged)


def test_what_follows_the_image(tmp_path):
    """Zeros up to 64 KiB are padding and are said; else header and image do not belong together."""
    whole = content()
    for made in (whole + bytes(512), gzip.compress(whole + bytes(512))):
        volume = read(tmp_path, made)
        assert volume.warnings == ("512 zeros follow the image; they are ignored",)
        np.testing.assert_array_equal(volume.data, read(tmp_path, whole).data)
    assert read(tmp_path, gzip.compress(whole) + bytes(512)).warnings == ()  # Outside of gzip.
    refuses(tmp_path, whole + b"\0\1", "longer than its header says")
    refuses(tmp_path, whole + bytes(2**16 + 1), "longer than its header says")
    with pytest.raises(errors.UserError, match="damaged: Not a gzipped file"):
        read(tmp_path, gzip.compress(whole) + b"more")


def test_a_file_that_unpacks_to_much_more_than_it_says_is_not_unpacked(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content()) + gzip.compress(bytes(2**27)))
    tracemalloc.start()
    with pytest.raises(errors.UserError, match="longer than its header says"):
        volumes.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_no_room_is_made_for_what_a_short_file_cannot_hold(tmp_path, packed):
    made = content(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(made) if packed else made)
    tracemalloc.start()
    for work in (volumes.read, volumes.describe):
        with pytest.raises(errors.UserError, match="1000 x 1000 x 1000"):
            work(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_an_offset_of_zero_is_the_least_where_the_length_proves_it(tmp_path):
    for kind, start in ((nib.Nifti1Image, 352), (nib.Nifti2Image, 544)):
        for pack in (bytes, gzip.compress):
            volume = read(tmp_path, pack(content(kind=kind, vox_offset=0)))
            np.testing.assert_array_equal(volume.data, DATA)
            assert f"read from byte {start}" in volume.warnings[0]
    refuses(tmp_path, content(vox_offset=0) + bytes(16), "length does not fit the 352")


@pytest.mark.parametrize("offset", [1, 16, 348, 351.5, 352.5, -352, np.nan, np.inf, 1e9, 2.0**27])
def test_other_offsets_of_the_image_are_named(tmp_path, offset):
    refuses(tmp_path, content(vox_offset=offset), r"\(vox_offset\); accepted: whole numbers from")


@pytest.mark.parametrize("offset", [1, 352, 543, -1, 2**40, 2**62])
def test_other_offsets_of_the_image_are_named_in_nifti_2(tmp_path, offset):
    refuses(tmp_path, content(kind=nib.Nifti2Image, vox_offset=offset), "from 544 to")


def extended(claim, text=b"x" * 24, flag=1, code=6):
    """A file whose header extension claims some bytes and has 32."""
    whole = content(vox_offset=384)
    block = struct.pack("<ii", claim, code) + text
    return whole[:348] + bytes([flag, 0, 0, 0]) + block + whole[352:]


def test_header_extensions(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, extended(32)).data, DATA)
    np.testing.assert_array_equal(read(tmp_path, extended(0, bytes(24), code=0)).data, DATA)
    np.testing.assert_array_equal(read(tmp_path, extended(9999, flag=0)).data, DATA)
    for claim in (4, -32, 48, 2**31 - 1, 0):
        refuses(tmp_path, extended(claim), f"extension at byte 352 claims {claim} bytes, 32 are")


@pytest.mark.parametrize(
    "fields",
    [
        {"descrip": b"\xff\x00\n\x1b[31m"},
        {"aux_file": b"\xff" * 24, "intent_name": b"\n" * 16},
        {"intent_code": 1007},
        {"intent_code": -1, "slice_code": 9, "dim_info": 255},
        {"cal_min": np.nan, "cal_max": -np.inf},
        {"scl_slope": np.nan},
        {"scl_slope": np.inf, "scl_inter": np.nan},
        {"scl_slope": 0, "scl_inter": 100},
        {"toffset": np.nan, "slice_duration": np.inf},
        {"pixdim": [0, 2, 2, 2, np.nan, -1, 0, 0]},
    ],
)
def test_fields_that_say_nothing_of_the_voxels_are_passed_over(tmp_path, fields):
    volume = read(tmp_path, content(**fields))
    np.testing.assert_array_equal(volume.data, DATA)
    volumes.write_nifti(tmp_path / "map.nii", volume.data, like=volume)
    np.testing.assert_allclose(volumes.read(tmp_path / "map.nii").affine, volume.affine)


def test_bits_a_voxel_that_contradict_the_type_are_said(tmp_path):
    volume = read(tmp_path, content(bitpix=32))
    np.testing.assert_array_equal(volume.data, DATA)
    assert volume.warnings == (
        "the header says 32 bits a voxel, its data type has 16, which count",
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"datatype": 0}, "type 0"),
        ({"datatype": 1}, "type 1"),
        ({"datatype": -4}, "type -4"),
        ({"datatype": 1536}, "type 1536"),
        ({"datatype": 32}, "complex"),
        ({"datatype": 1792}, "colour, bits or complex"),
        ({"datatype": 128}, "colour"),
        ({"datatype": 7777}, "type 7777"),
        ({"scl_inter": np.nan}, "invalid intercept"),
        ({"dim": [0, 9, 10, 11, 1, 1, 1, 1]}, "0 dimensions"),
        ({"dim": [2, 9, 10, 11, 1, 1, 1, 1]}, "2 dimensions"),
        ({"dim": [8, 9, 10, 11, 1, 1, 1, 1]}, "8 dimensions"),
        ({"dim": [-3, 9, 10, 11, 1, 1, 1, 1]}, "-3 dimensions"),
        ({"dim": [3, -9, 10, 11, 1, 1, 1, 1]}, "at least 8"),
        ({"dim": [3, -1, 1, 1, 1, 1, 1, 1]}, "at least 8"),
        ({"dim": [3, 0, 10, 11, 1, 1, 1, 1]}, "at least 8"),
        ({"dim": [4, 9, 10, 11, 0, 1, 1, 1]}, "9 x 10 x 11 x 0 voxels"),
        ({"dim": [5, 9, 10, 11, 1, 3, 1, 1]}, "5 dimensions"),
        ({"dim": [3, 9, 10, 10, 1, 1, 1, 1]}, "longer than its header says"),
        ({"dim": [3, 9, 10, 12, 1, 1, 1, 1]}, "truncated: 2332 of 2512 bytes"),
        ({"magic": b"ni1"}, "no single-file"),
        ({"magic": b"zz"}, "no single-file"),
        ({"sizeof_hdr": 0}, "no header"),
        ({"sizeof_hdr": 540}, "no single-file"),
    ],
    ids=str,
)
def test_headers_that_make_no_sense_are_refused(tmp_path, fields, text):
    refuses(tmp_path, content(**fields), text)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int8,
                                  np.uint16, np.int32, np.uint32, np.int64, np.uint64])  # fmt: skip
@pytest.mark.parametrize("order", "<>")
def test_every_type_of_number_in_both_byte_orders(tmp_path, kind, order):
    data = (DATA % 100).astype(kind)
    for head in (nib.Nifti1Header, nib.Nifti2Header):
        header = head(endianness=order)
        header.set_data_dtype(np.dtype(kind).newbyteorder(order))
        made = nib.Nifti1Image if head is nib.Nifti1Header else nib.Nifti2Image
        made = made(data[..., None], np.eye(4), header).to_bytes()
        np.testing.assert_array_equal(read(tmp_path, made).data, DATA % 100)


@pytest.mark.filterwarnings("error")
def test_random_headers_are_one_line_or_a_volume_whose_map_lies_on_it(tmp_path):
    """Bytes and whole fields; no traceback and no warning of numpy's on the screen."""
    scan = read(tmp_path, content(), "scan.nii")
    path = tmp_path / "a.nii"
    rng = np.random.default_rng(0)
    odd = np.array([0, -1, 1, 7, 255, 32767, np.nan, np.inf, -np.inf, 1e30, -1e-30, 3e38])
    for turn in range(200):
        kind = (nib.Nifti1Image, nib.Nifti2Image)[turn % 2]
        made = bytearray(content((DATA > 500).astype(np.int16), kind))
        header = kind.header_class(bytes(made[: kind.header_class.sizeof_hdr]), check=False)
        if turn % 3:
            field = header[rng.choice([k for k in header if header[k].dtype.kind != "S"])]
            with np.errstate(invalid="ignore", over="ignore"):
                field[(rng.integers(max(1, field.size)),) if field.shape else ()] = np.array(
                    rng.choice(odd)
                ).astype(field.dtype)
            made[: header.sizeof_hdr] = header.binaryblock
        for at in rng.integers(0, header.sizeof_hdr, 0 if turn % 3 else 5):
            made[at] = rng.integers(256)
        path.write_bytes(bytes(made))
        for work in (volumes.describe, lambda p: volumes.read_labels(p, scan), volumes.read):
            try:
                volume = work(path)
            except errors.UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                assert len(str(error)) < 600 + len(str(path))
                volume = None
        if volume is not None:
            volumes.write_nifti(tmp_path / "map.nii", volume.data, like=volume)
            again = volumes.read(tmp_path / "map.nii")
            np.testing.assert_allclose(again.affine, volume.affine, rtol=1e-4, atol=1e-3)


def test_names_in_capitals(tmp_path):
    volume = read(tmp_path, gzip.compress(content()), "A.NII.GZ")
    volumes.write_nifti(tmp_path / "MAP.NII.GZ", volume.data, like=volume)
    assert (tmp_path / "MAP.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(volumes.read(tmp_path / "MAP.NII.GZ").data, DATA)


def test_an_image_that_nibabel_opened_is_read_to_its_end_too(tmp_path):
    whole = gzip.compress(content(), mtime=0)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    with pytest.raises(errors.UserError, match="CRC"):
        volumes.from_image(nib.load(path))
    path.write_bytes(whole)
    image = nib.load(path)
    volume = volumes.from_image(image)
    assert volume.sha256 and np.array_equal(volume.data, DATA)
    moved = image.affine + np.pad([[3.0]], ((0, 3), (3, 0)))
    np.testing.assert_allclose(
        volumes.from_image(nib.Nifti1Image(image.dataobj, moved)).affine, moved
    )


def test_images_of_other_formats_are_read_to_their_end_too(tmp_path):
    path = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(DATA, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    np.testing.assert_array_equal(volumes.from_image(nib.load(path)).native.shape, DATA.shape)
    whole = path.read_bytes()
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    with pytest.raises(errors.UserError, match=r"a\.mgz' is truncated or damaged: CRC"):
        volumes.from_image(nib.load(path))


def test_images_without_numbers_or_matrix_are_refused():
    colour = np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for data in (colour, DATA.astype(np.complex64)):
        with pytest.raises(errors.UserError, match="colour, bits or complex"):
            volumes.from_image(nib.Nifti1Image(data, np.eye(4)))
    with pytest.raises(errors.UserError, match="no voxel -> mm matrix"):
        volumes.from_image(nib.Nifti1Image(DATA, None))


def test_the_bounds_are_those_of_the_docs():
    assert (nifti_file._MOST_AFTER, nifti_file._MOST_BEFORE) == (64 * 2**10, 64 * 2**20)


def test_a_dicom_file_is_told_to_come_with_its_folder(tmp_path):
    path = tmp_path / "one.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(600))
    with pytest.raises(errors.UserError, match="is a DICOM file; accepted: the folder"):
        volumes.read(path)


def test_an_opened_image_whose_packed_voxels_are_cut_off(tmp_path):
    """Of a caller that opened the file with nibabel: one line, whatever the decoder raises."""
    values = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    packed = path.read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(errors.UserError, match=r"'in hand' cannot be read"):
        nifti_file.read_numbers(nib.load(path), "in hand")
