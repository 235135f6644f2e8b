"""Lesions painted on a small drawn head: sizes, truth, what stays, files and refusals."""

import collections
import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks import paint_lesions
from benchmarks.painted import drawing, kinds, painter, tissues

SIDE = 3.0
SHAPE = (52, 60, 50)
KINDS = {
    "stroke": 12.0, "tumour": 10.0, "white_matter": 0.8, "grey_in_white": 3.0, "structure": 4.0
}  # fmt: skip


def drawn_labels():
    """Ellipsoids: fluid, cortex, white matter and two ventricles, each half with its numbers."""
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    far = np.sqrt((x / 21) ** 2 + (y / 25) ** 2 + (z / 20) ** 2)
    hole = np.sqrt(((np.abs(x) - 4) / 2.5) ** 2 + (y / 8) ** 2 + (z / 3) ** 2) < 1
    labels = np.select(
        [far > 1, far > 0.95, hole, far < 0.78], [0, 1, 52 - (x > 0), 82 - (x > 0)], 101 - (x > 0)
    )
    return labels.astype(np.int16), far


def drawn_head(noise=2.0):
    """White 100, grey 65, fluid 40, bone dark, skin bright; shaded by a tenth along y."""
    labels, far = drawn_labels()
    levels = np.zeros(256)
    levels[[1, 51, 52, 81, 82, 100, 101]] = 40, 40, 40, 100, 100, 65, 65
    image = levels[labels] + np.where((far > 1.08) & (far < 1.18), 80.0, 0)
    image = image * np.linspace(0.95, 1.05, SHAPE[1])[None, :, None]
    image += noise * np.random.default_rng(0).standard_normal(SHAPE)
    return np.clip(image, 0, 255).astype(np.float32), labels


@pytest.fixture(scope="module")
def head():
    return tissues.measure(*drawn_head(), (SIDE,) * 3, "drawn")[0]


def write_head(folder, name="IXI011-X-0001", labels=None):
    """A head of uint8 with a slope, axes P S R, and its parcellation; both folders."""
    image, drawn = drawn_head()
    affine = np.array([[0, 0, SIDE, -80], [-SIDE, 0, 0, 90], [0, SIDE, 0, -70], [0, 0, 0, 1.0]])
    # RAS [X, Y, Z] -> axes towards posterior, superior, right.
    turn = lambda array: np.ascontiguousarray(array.transpose(1, 2, 0)[::-1])  # noqa: E731
    file = nib.Nifti1Image(turn(image).astype(np.uint8), affine)
    file.header.set_slope_inter(5.87, 0.0)
    file.header["descrip"] = b"drawn"
    map_file = nib.Nifti1Image(turn(drawn if labels is None else labels).astype(np.uint8), affine)
    for part, content in (("heads", file), ("maps", map_file)):
        (folder / part).mkdir(exist_ok=True)
        nib.save(content, folder / part / f"{name}.nii.gz")
    return folder


def run(folder, out, *flags):
    return paint_lesions.main(
        [f"--in={folder}/heads", f"--segmentation={folder}/maps", f"--out={out}", *flags]
    )


@pytest.mark.parametrize("kind", painter.ML)
def test_a_lesion_has_its_volume_and_its_truth(head, kind):
    asked = KINDS[kind]
    image, truth, lesions = painter.paint_head(head, [painter.Wish(kind, asked)], "a", 3)
    (lesion,) = lesions
    assert lesion.ml == head.ml(truth == 1) == pytest.approx(asked, rel=0.15)
    change = np.abs(ndimage.gaussian_filter(image - head.image, 0.6)) / head.contrast
    if kind == "tumour":  # what moved aside is no truth: only what is far away can be compared
        reach = np.linalg.norm(
            (np.argwhere(image != head.image) - lesion.centre) * SIDE, axis=1
        ).max()
        assert reach < 4 * drawing.radius_mm(asked)
        assert change[truth == 1].mean() > drawing.VISIBLE
        return
    seen = change > drawing.VISIBLE
    # Filled gaps and dropped crumbs are the only voxels of which truth and sight disagree.
    assert (seen & (truth == 0)).sum() <= 0.03 * truth.sum() + 4
    assert (~seen & (truth == 1)).sum() <= 0.1 * truth.sum() + 2
    assert (image != head.image)[truth == 1].all()


def test_bone_and_skin_stay_and_grey_in_white_is_grey(head):
    wishes = [painter.Wish(kind, ml) for kind, ml in KINDS.items()]
    image, truth, lesions = painter.paint_head(head, wishes, "b", 1)
    assert {lesion.kind for lesion in lesions} == set(KINDS)
    far = ndimage.binary_dilation(head.labels > 0, iterations=3)
    np.testing.assert_array_equal(image[~far], head.image[~far])
    number = [lesion.kind for lesion in lesions].index("grey_in_white") + 1
    inner = ndimage.binary_erosion(truth == number)
    assert image[inner].mean() == pytest.approx(head.grey, abs=0.08)


def test_lesions_do_not_meet_and_a_full_head_gets_fewer(head):
    wishes = [painter.Wish("white_matter", 2.0 + n / 10) for n in range(15)]
    wishes.append(painter.Wish("stroke", 400.0))
    _, truth, lesions = painter.paint_head(head, wishes, "c", 1)
    assert 8 < len(lesions) < 16
    assert [lesion.ml for lesion in lesions] == [
        head.ml(truth == number) for number in range(1, len(lesions) + 1)
    ]
    pieces, _ = ndimage.label(truth > 0, np.ones((3, 3, 3)))
    for piece in range(1, pieces.max() + 1):  # no connected piece holds two lesions
        assert len(np.unique(truth[pieces == piece])) == 1


def test_a_tumour_pushes_what_is_around_it_outward_and_not_through_the_skull():
    image, labels = drawn_head(0.0)
    head = tissues.measure(image, labels, (SIDE,) * 3, "drawn")[0]
    centre = tuple(n // 2 for n in SHAPE)
    away = drawing.offsets(SHAPE, centre, head.voxel_mm)
    distance = np.linalg.norm(away, axis=0)
    shift = kinds._push(head, away, distance, 15.0, 0.5)
    outward = (shift * away).sum(0)
    assert outward.min() > -0.01 * SIDE
    assert np.abs(shift[:, distance > 3 * 15]).max() < 1e-3
    # At the border of the mass volume is kept: d - (d^3 - r^3 / 2)^(1/3), softened a little.
    ring = (np.abs(distance - 15) < 1.5) & (head.depth_mm > 20)
    expected = 15 - (0.5 * 15**3) ** (1 / 3)
    assert np.linalg.norm(shift, axis=0)[ring].mean() == pytest.approx(expected, rel=0.25)
    # A mass at the border of the brain moves no bone.
    away = drawing.offsets(SHAPE, (centre[0] + 15, *centre[1:]), head.voxel_mm)
    shift = kinds._push(head, away, np.linalg.norm(away, axis=0), 15.0, 0.5)
    assert np.linalg.norm(shift, axis=0).max() > 2
    bone = ~ndimage.binary_dilation(labels > 0)
    assert np.linalg.norm(shift, axis=0)[bone].max() < 0.2


def test_displacement_of_a_ramp_is_the_shift():
    ramp = np.broadcast_to(np.arange(20.0, dtype=np.float32)[:, None, None], (20, 9, 9))
    shift = np.zeros((3, 20, 9, 9), np.float32)
    shift[0, 6:14] = 3.0
    moved = drawing.displaced(ramp, shift, (2.0, 2.0, 2.0))
    np.testing.assert_allclose(moved[6:14], ramp[6:14] - 1.5, atol=0.05)
    np.testing.assert_array_equal(moved[:6], ramp[:6])


@pytest.mark.parametrize("width", [0.5, 0.8])
def test_the_noise_of_a_head_is_measured_and_drawn_again(width):
    rng = np.random.default_rng(1)
    # Dark surroundings are no noise.
    white = np.linalg.norm(drawing.offsets((40, 40, 40), (20, 20, 20), (1.0,) * 3), axis=0) < 17
    image = white + 0.05 * drawing.field(rng, white.shape, width)
    spread, found = tissues.measure_noise(image, white)
    assert found == pytest.approx(width, abs=0.12)
    assert spread == pytest.approx(0.05, rel=0.15)


def test_shading_is_divided_out(head):
    white = ndimage.binary_erosion(head.of(tissues.WHITE))
    rows = [head.image[:, y][white[:, y]].mean() for y in range(16, 45)]
    np.testing.assert_allclose(rows, 1.0, atol=0.02)
    assert head.grey == pytest.approx(0.65, abs=0.03)
    assert head.csf == pytest.approx(0.40, abs=0.03)


def test_kinds_and_volumes_are_spread_evenly_whatever_the_order():
    ids = [f"IXI{n:03d}" for n in range(21)]
    made = painter.plan(ids, 2)
    assert made == painter.plan(ids[::-1], 2)
    assert made != painter.plan(ids, 3)
    wishes = [wish for head in made.values() for wish in head]
    counts = collections.Counter(wish.kind for wish in wishes)
    counts["white_matter"] //= painter.SPOTS
    assert max(counts.values()) - min(counts.values()) <= 2
    for kind, (low, high) in painter.ML.items():
        volumes = sorted(wish.ml for wish in wishes if wish.kind == kind)
        shares = np.log(np.array(volumes) / low) / np.log(high / low) * len(volumes)
        np.testing.assert_array_equal(np.floor(shares), np.arange(len(volumes)))


def test_the_command_keeps_header_type_and_every_other_voxel(tmp_path):
    write_head(tmp_path)
    flags = ("--kinds=stroke", "--ml=8,15", "--most=1", "--seed=4")
    assert run(tmp_path, tmp_path / "a", *flags) == run(tmp_path, tmp_path / "b", *flags) == 0
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    (row,) = csv.DictReader((tmp_path / "a" / "lesions.csv").open())
    before = nib.load(tmp_path / "heads" / f"{row['id']}.nii.gz")
    after = nib.load(tmp_path / "a" / f"{row['id']}.nii.gz")
    lesions = nib.load(tmp_path / "a" / f"{row['id']}_lesions.nii.gz")
    assert after.header.binaryblock == before.header.binaryblock
    assert (after.dataobj.slope, after.get_data_dtype()) == (before.dataobj.slope, np.uint8)
    truth = np.asarray(lesions.dataobj)
    np.testing.assert_allclose(lesions.affine, before.affine)
    old, new = (np.asarray(image.dataobj.get_unscaled()) for image in (before, after))
    around = ndimage.binary_dilation(truth > 0, iterations=12)
    np.testing.assert_array_equal(old[~around], new[~around])
    # Further than the soft border nothing is left that could be seen: no crumb without truth.
    change = np.abs(ndimage.gaussian_filter(new - 1.0 * old, 0.6))
    assert change[~ndimage.binary_dilation(truth > 0, iterations=2)].max() < 0.4 * 35
    assert (old != new)[truth > 0].mean() > 0.95
    assert float(row["volume_ml"]) == pytest.approx(truth.astype(bool).sum() * SIDE**3 / 1000)
    middle = lesions.affine @ [*np.argwhere(truth).mean(0), 1]
    found = [float(row[key]) for key in ("x_mm", "y_mm", "z_mm")]
    np.testing.assert_allclose(found, middle[:3], atol=0.01)


def test_what_cannot_be_painted_is_told(tmp_path, capsys):
    write_head(tmp_path)
    told = lambda *flags: (run(tmp_path, tmp_path / "out", *flags), capsys.readouterr().err)  # noqa: E731
    for flags, part in (
        (("--kinds=bruise",), "no 'bruise'; accepted: stroke"),
        (("--ml=5",), "two volumes"),
        (("--ml=9,5",), "two volumes"),
        (("--most=0",), "--most=0; accepted: 1 to 5"),
        (("--ids=IXI9",), "no NIfTI file whose name has 'IXI9'"),
    ):
        status, text = told(*flags)
        assert (status, part in text, text.count("\n")) == (2, True, 1), text
    write_head(tmp_path, labels=np.minimum(drawn_labels()[0], 3))
    assert "no white matter" in told()[1]
    write_head(tmp_path, labels=drawn_labels()[0][1:])
    assert "both must be of one grid" in told()[1]
    (tmp_path / "maps" / "IXI011-X-0001.nii.gz").unlink()
    assert "every head needs its parcellation" in told()[1]
    assert not (tmp_path / "out").exists()
