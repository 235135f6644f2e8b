"""What a prepared folder's files say is looked at before anything is removed."""

import json

import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.prepare import __main__ as main
from madad_jax.prepare import output
from tests import holder
from tests.scans import cases

NAME = "train/scan1-slice_080-T1.png"


def state(**changes):
    row = {
        **{"id": "scan1-slice_080", "scan": "scan1", "subject": "scan1", "split": "train"},
        **{"slice": 80, "modality": "T1", "file": NAME, "level_mm": 8.0, "pixel_mm": 1.0},
        **{"brain_pixels": 9, "lesion_pixels": None, "source": "a", "sha256": "b", "warnings": []},
    }
    values = {"key": "k", "inputs": {"a": [1, 2, "c"]}, "facts": {}, "warnings": []}
    return values | {"subject": "s", "split": "train", "files": {NAME: 3}, "rows": [row]} | changes


@pytest.fixture
def out(tmp_path):
    """A prepared folder of one scan, beside a file that is somebody else's."""
    folder = epath.Path(tmp_path / "out")
    (tmp_path / "thesis.txt").write_text("precious")
    (folder / "train").mkdir(parents=True)
    (folder / NAME).write_text("png")
    write(folder, state())
    return folder


def write(out, value):
    path = out / ".prepare" / "scans" / "scan1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_scan_is_removed_with_its_pictures(out):
    assert output.read_state(out, "scan1") == state()
    output.remove_scan(out, "scan1")
    assert not (out / NAME).exists() and not (out / ".prepare/scans/scan1.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../thesis.txt",
        "{root}/thesis.txt",
        "train/../../thesis.txt",
        "train/scan2-slice_080-T1.png",
        "train/scan1-slice_080-T1.png.1-2.new",
        "train/deep/scan1-slice_080-T1.png",
        "other/scan1-slice_080-T1.png",
        "scan1-slice_080-T1.png",
        "train/scan1.png",
        "dataset.json",
        "",
        "train/scan1-slice_080-T1.png\n",
    ],
)
def test_a_name_of_another_file_removes_nothing(out, name, tmp_path):
    name = name.replace("{root}", str(tmp_path))
    write(out, state(files={NAME: 3, name: 8}))
    with pytest.raises(errors.UserError, match=r"scan1\.json': files: found ") as error:
        output.remove_scan(out, "scan1")
    assert "\n" not in str(error.value)
    assert (tmp_path / "thesis.txt").exists() and (out / NAME).exists()
    with pytest.raises(errors.UserError):
        output.read_states(out)


def test_rows_name_pictures_of_the_scan_alone(out):
    row = state()["rows"][0] | {"file": "../thesis.txt"}
    write(out, state(rows=[row]))
    with pytest.raises(errors.UserError, match=r"found '\.\./thesis\.txt'"):
        output.read_state(out, "scan1")


@pytest.mark.parametrize("link", ["train", "transforms", ".prepare/scans"])
def test_no_link_is_followed(out, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "elsewhere" / "moved"
    (out / "transforms").mkdir(exist_ok=True)
    (out / "transforms" / "scan1.json").write_text("{}")
    (tmp_path / "out" / link).rename(place)
    (tmp_path / "out" / link).symlink_to(place)
    before = sorted(str(p) for p in place.rglob("*"))
    with pytest.raises(errors.UserError, match="is a link, and links are not followed"):
        output.remove_scan(out, "scan1")
    with pytest.raises(errors.UserError, match="is a link"):
        output.remove_partial(out, ["scan1"], {})
    assert sorted(str(p) for p in place.rglob("*")) == before


@pytest.mark.parametrize(
    "value",
    [
        *([], None, 3, "x", {}),
        *(state(files=[NAME]), state(files={NAME: "3"}), state(rows={}), state(rows=[3])),
        *(state(key=3), state(inputs=[]), state(inputs={"a": 3}), state(inputs={"a": [1, 2]})),
        *(state(facts=[]), state(warnings="x"), state(warnings=[3]), state(split="other")),
        state(rows=[state()["rows"][0] | {"slice": "80"}]),
        state(rows=[state()["rows"][0] | {"lesion_pixels": True}]),
        state(rows=[state()["rows"][0] | {"scan": "scan2"}]),
    ],
)
def test_a_state_of_another_kind_counts_as_not_done(out, value):
    write(out, value)
    assert output.read_state(out, "scan1") is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 9999 + b"]" * 9999])
def test_a_damaged_state_counts_as_not_done_and_damaged_settings_are_named(out, content):
    (out / ".prepare" / "scans" / "scan1.json").write_bytes(content)
    assert output.read_state(out, "scan1") is None
    (out / ".prepare" / "settings.json").write_bytes(content)
    with pytest.raises(errors.UserError, match=r"settings\.json"):
        output.check_settings(out, {})


def test_a_run_that_was_killed_as_it_began_can_be_started_again(tmp_path):
    (tmp_path / ".prepare").mkdir()
    (tmp_path / ".prepare" / "lock").write_text("")
    output.check_settings(epath.Path(tmp_path), {"version": 1})


def test_a_second_preparation_is_refused(tmp_path):
    cases.write(tmp_path / "in", "good0", voxel=(6.0, 6.0, 6.0))
    table = "title: t\nid: '[a-z0-9]+'\nimages: {T1: '{id}_T1{nii}'}\n"
    (tmp_path / "table.yaml").write_text(table)
    flags = ["--cohort=folder", f"--cohort_file={tmp_path / 'table.yaml'}"]
    flags += [f"--in={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--registration=none"]
    with (
        holder.held(tmp_path / "out", ".prepare/lock") as first,
        pytest.raises(errors.UserError, match=f"process {first.pid} on ") as error,
    ):
        main.run(["prepare", *flags, "--brain_mask=nonzero"])
    assert str(error.value).startswith(f"--out={tmp_path / 'out'}: ")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".prepare"]
