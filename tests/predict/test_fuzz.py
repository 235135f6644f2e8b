"""Damaged and odd scans: a line that says why, or a whole map; never a traceback."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from tests.predict import conftest

_TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.int8, np.int64)

_FIELDS = (
    *("dim", "pixdim", "srow_x", "quatern_b", "vox_offset", "scl_slope", "scl_inter"),
    *("datatype", "bitpix", "sform_code", "magic", "sizeof_hdr"),
)


def _coarse(rng, lesion=True):
    """A whole small scan: 4 mm, so that hundreds can be judged."""
    image, _, affine = conftest.brain_scan(lesion=lesion, seed=int(rng.integers(1 << 30)))
    return image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])


def _bytes(image):
    return bytearray(image.to_bytes())


def flipped_header(rng):
    """Random bytes anywhere in the header."""
    content = _bytes(nib.Nifti1Image(*_coarse(rng)))
    for at in rng.integers(0, 348, rng.integers(1, 12)):
        content[at] = rng.integers(256)
    return content


def field(rng):
    """One header field of a value that no scanner writes."""
    content = _bytes(nib.Nifti1Image(*_coarse(rng)))
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, 1)[0].copy()
    name = rng.choice(_FIELDS)
    odd = rng.choice(np.array([0, -1, 1, 7, 255, 32767, np.nan, np.inf, 1e30, -1e-30]))
    with np.errstate(invalid="ignore", over="ignore"):
        if header[name].dtype.kind == "S":
            header[name] = b"zz"
        elif header[name].shape:
            header[name][rng.integers(header[name].size)] = np.array(odd).astype(header[name].dtype)
        else:
            header[name] = np.array(odd).astype(header[name].dtype)
    content[:348] = header.tobytes()
    return content


def cut(rng):
    """A file that ends anywhere, packed or not."""
    content = bytes(_bytes(nib.Nifti1Image(*_coarse(rng))))
    if rng.random() < 0.5:
        content = gzip.compress(content, 1)
    return content[: rng.integers(len(content))]


def other_type(rng):
    """Every type of number, both byte orders, colour, complex."""
    image, affine = _coarse(rng)
    kind = rng.choice(len(_TYPES) + 2)
    if kind == len(_TYPES):
        return _bytes(nib.Nifti1Image(image.astype(np.complex64), affine))
    if kind == len(_TYPES) + 1:
        colour = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        return _bytes(nib.Nifti1Image(colour, affine))
    array = (image * 127 / image.max()).astype(_TYPES[kind])
    header = nib.Nifti1Header(endianness=rng.choice(["<", ">"]))
    header.set_data_dtype(array.dtype.newbyteorder(header.endianness))
    return _bytes(nib.Nifti1Image(array, affine, header))


def other_shape(rng):
    """One to five dimensions, thin, tiny and lopsided grids."""
    shape = [int(n) for n in rng.choice([1, 2, 7, 8, 9, 40, 300], rng.integers(1, 6))]
    while np.prod(shape) > 300_000:
        shape[int(np.argmax(shape))] //= 3
    array = rng.integers(0, 500, shape).astype(np.int16)
    affine = np.diag([*rng.uniform(0.1, 6, 3), 1.0])
    affine[:3, 3] = rng.uniform(-120, 20, 3)
    return _bytes(nib.Nifti1Image(array, affine))


def other_content(rng):
    """Nothing, one value, noise, NaN, infinity, negative brains."""
    image, affine = _coarse(rng)
    what = rng.integers(7)
    if what == 0:
        image = np.zeros_like(image)
    elif what == 1:
        image = np.full_like(image, 7.0)
    elif what == 2:
        image = np.where(image > 0, 7.0, 0.0).astype(np.float32)
    elif what == 3:
        image = np.where(rng.random(image.shape) < rng.random(), np.nan, image).astype(np.float32)
    elif what == 4:
        image[rng.random(image.shape) < 0.01] = rng.choice([np.inf, -np.inf, 3e38, -3e38])
    elif what == 5:
        image = -image
    else:
        image = rng.normal(size=image.shape).astype(np.float32)
    return _bytes(nib.Nifti1Image(image, affine))


def other_place(rng):
    """Brains far away, turned over, stretched, mirrored, or on a flat matrix."""
    image, affine = _coarse(rng)
    change = np.eye(4) + np.pad(rng.normal(0, rng.choice([0.05, 0.5, 3]), (3, 3)), (0, 1))
    change[:3, 3] = rng.normal(0, rng.choice([1, 30, 1e4]), 3)
    content = _bytes(nib.Nifti1Image(image, change @ affine))
    if rng.random() < 0.2:  # the sform's rows, which nibabel would not write like this
        rows = np.frombuffer(content, "<f4", 12, 280).copy().reshape(3, 4)
        rows[:, 0] = 0
        content[280:328] = rows.tobytes()
    return content


KINDS = (flipped_header, field, cut, other_type, other_shape, other_content, other_place)


def check(made, path):
    """'map' or the error's line; anything else is a failure."""
    try:
        result = made(path)
    except errors.UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        return str(error)
    assert np.isfinite(result.anomaly).all() and np.isfinite(result.reconstruction).all()
    assert result.anomaly.min() >= 0 and result.anomaly.max() <= 1
    assert np.isfinite(result.score)
    assert result.mask_image.shape == result.volume.native.shape
    return "map"


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize(
    "count", [2, pytest.param(43, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_line_or_a_map(setting, tmp_path, kind, count):
    """43 of each of 7 kinds: 301 scans."""
    made = conftest.make_detector(setting)
    ends = []
    for seed in range(count):
        path = tmp_path / f"{seed}.nii"
        path.write_bytes(bytes(kind(np.random.default_rng([seed, KINDS.index(kind)]))))
        ends.append(check(made, path))
        path.unlink()
    if count > 2 and kind is not cut:
        assert "map" in ends or kind is other_shape, ends
