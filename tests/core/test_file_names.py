"""Names out of files stay below their folder."""

import pytest

from madad_jax.core import errors, file_names


@pytest.mark.parametrize("name", ["a.png", "train/a.png", "..a/b..", "a b"])
def test_a_name_below_the_folder_is_its_path(tmp_path, name):
    assert str(file_names.check_inside(tmp_path, name, "x.json")) == f"{tmp_path}/{name}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "a\0b", None, 3, ["a"]]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(errors.UserError, match=r"'x\.json': found the name") as error:
        file_names.check_inside(tmp_path, name, "x.json")
    assert "\n" not in str(error.value) and "\0" not in str(error.value)


def test_no_link_is_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(tmp_path)
    with pytest.raises(errors.UserError, match="out/train' is a link"):
        file_names.check_inside(tmp_path / "out", "train/a.png", "x.json")
