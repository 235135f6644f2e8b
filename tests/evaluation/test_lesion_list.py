"""A table of lesions, from the scanner's millimetres to slices."""

import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.evaluation import lesion_list
from madad_jax.scans import geometry, registration

GEOMETRY = geometry.Geometry(64, 128.0, left="right", first_level=-60.0, level_step=4.0)
HEADER = "id,lesion,kind,volume_ml,asked_ml,x_mm,y_mm,z_mm"
# Turned by 90 degrees about z, and moved.
MATRIX = np.array([[0, -1, 0, 5], [1, 0, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]], float)


@pytest.fixture
def root(tmp_path):
    registration.Transform(MATRIX, "affine").save(epath.Path(tmp_path) / "transforms" / "a.json")
    return epath.Path(tmp_path)


def _read(root, *lines, header=HEADER):
    (root / "lesions.csv").write_text("\n".join([header, *lines]) + "\n")
    return lesion_list.read(root / "lesions.csv", root, GEOMETRY)


def test_centres_come_to_the_slices_that_show_them(root):
    (lesion,) = _read(root, "a,1,stroke,2.5,2,11.0,-20.0,17.0")["a"]
    assert (lesion.kind, lesion.volume_ml) == ("stroke", 2.5)
    number, row, column = lesion.place
    # By hand: x, y, z in the template are 25, 4 and 20 mm; a pixel is 2 mm, columns run to -x.
    assert number == pytest.approx((20 + 60) / 4)
    assert row == pytest.approx(31.5 - (4 + 18) / 2)
    assert column == pytest.approx(31.5 - 25 / 2)


def test_scans_without_a_transform_are_left_out_unless_they_are_all(root, caplog):
    found = _read(root, "a,1,x,1,1,0,0,0", "b,1,x,1,1,0,0,0", "a,2,y,1,1,0,0,0")
    assert {scan: [n.kind for n in mine] for scan, mine in found.items()} == {"a": ["x", "y"]}
    assert "1 scans without a transform" in caplog.text
    with pytest.raises(errors.UserError, match=r"transforms/b\.json', nor that of any other"):
        _read(root, "b,1,x,1,1,0,0,0")
    assert _read(root) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,x,much,1,0,0,0", "line 2: volume_ml: found 'much', accepted: a number"),
        ("a,1,x,1,1,0,nan,0", "line 2: y_mm: found 'nan'"),
        ("a,1,x,0,1,0,0,0", "line 2: volume_ml: found 0, accepted: above 0"),
        ("a,1,x,1,1,0,0", "line 2: found nothing in z_mm"),
        ("a,1,,1,1,0,0,0", "line 2: found nothing in kind"),
        ("../a,1,x,1,1,0,0,0", "found the name"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_line(root, line, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        _read(root, line)
    assert "\n" not in str(caught.value) and "lesions.csv" in str(caught.value)


def test_other_tables_and_missing_ones_are_refused(root):
    with pytest.raises(errors.UserError, match=r"found no column kind, x_mm, y_mm, z_mm"):
        _read(root, header="id,volume_ml")
    with pytest.raises(errors.UserError, match=r"eval\.lesions: found .*none\.csv"):
        lesion_list.read(root / "none.csv", root, GEOMETRY)
    (root / "lesions.csv").write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(errors.UserError, match="no CSV in UTF-8"):
        lesion_list.read(root / "lesions.csv", root, GEOMETRY)
