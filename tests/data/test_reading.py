"""Which series of a folder is the scan, archives, and the converter of others."""

import os
import shutil
import stat
import zipfile

import nibabel as nib
import numpy as np
import pytest
from etils import epath
from pydicom import uid

from madad_jax.core import errors
from madad_jax.data import converter, dicom_series, discovery, reading, zip_archive
from madad_jax.predict import dicom_objects
from madad_jax.scans import dicom_files, volumes
from tests.scans import dicom_cases, dicom_writer
from tests.scans.dicom_writer import COUNT, check, image, report, save

T1 = {"SeriesNumber": 3, "SeriesDescription": "t1_mprage_sag", "EchoTime": 2.9,
      "RepetitionTime": 2300, "InversionTime": 900}  # fmt: skip
T2 = {"SeriesNumber": 4, "SeriesDescription": "t2_tse_tra", "EchoTime": 95, "RepetitionTime": 5000}
FLAIR = {"SeriesNumber": 5, "SeriesDescription": "t2_tirm_tra_dark-fluid", "EchoTime": 85,
         "RepetitionTime": 9000, "InversionTime": 2500}  # fmt: skip
DWI = {"SeriesNumber": 6, "SeriesDescription": "ep2d_diff_b1000"}
MPR = {"SeriesNumber": 9, "SeriesDescription": "t1_mprage_cor", "ImageType": ["DERIVED", "PRIMARY"]}
SCOUT = {"SeriesNumber": 1, "SeriesDescription": "localizer"}
WITH_AGENT = {**T1, "SeriesNumber": 7, "SeriesDescription": "t1_mprage_sag +KM"}
STUDY = {"StudyInstanceUID": "1.2.99", "PatientID": "p"}


def _images(number, values, offset=0):
    """A series' images, its pixels unlike the others'."""
    made = {}
    for k in range(COUNT):
        d = image(k, f"1.2.{number}", **STUDY, **values)
        d.PixelData = np.roll(dicom_writer.PIXELS[k], offset, axis=0).tobytes()
        made[f"{number}_{k}"] = d
    return made


def _person(folder, *more, t1=T1):
    """What an archive hands out: five series, an index, a report, and copies of files."""
    kinds = {"3": t1, "4": T2, "5": FLAIR, "6": DWI, "1": SCOUT}
    for shift, (number, values) in enumerate({**kinds, **dict(more)}.items()):
        offset = 0 if number == "3" else shift + 1
        save(folder, _images(f"3.{number}" if number != "3" else "3", values, offset))
    save(folder, {"DICOMDIR": report(uid.MediaStorageDirectoryStorage), "report": report()})
    shutil.copy(folder / "3_2", folder / "3_2 (1)")
    return folder


def test_the_t1_of_a_persons_folder_is_found_and_said(tmp_path):
    folder = _person(tmp_path / "p", ("9", MPR), ("7", WITH_AGENT))
    volume = reading.read(folder, reading.Wish(contrast="T1"))
    check(volume)
    assert volume.series == "1.2.3"
    said = volume.warnings[0]
    assert said.startswith("series 3 't1_mprage_sag': T1 (by its name and times), 9 images of 12 x")
    assert said.endswith("taken, 6 other series left out")
    assert volume.sha256 == reading.digest(folder)
    with_agent = reading.read(folder, reading.Wish(contrast="T1CE"))
    assert with_agent.series == "1.2.3.7"


@pytest.mark.parametrize(
    ("more", "contrast", "text"),
    [
        ({"8": {**T1, "SeriesNumber": 8}}, "T1", "2 series may be the T1 scan by the rules"),
        ({}, "PD", "no series is the PD scan by the rules"),
        ({}, "", "4 series may be the scan by the rules"),
    ],
)
def test_nothing_is_guessed(tmp_path, more, contrast, text):
    folder = _person(tmp_path / "p", *more.items())
    with pytest.raises(errors.UserError, match=text) as error:
        reading.read(folder, reading.Wish(contrast=contrast))
    listed = str(error.value).partition("--series=NUMBER, one of ")[2]
    assert [part.split(" ")[0] for part in listed.split("; ")][:5] == ["1", "3", "4", "5", "6"]
    assert "5 't2_tirm_tra_dark-fluid': FLAIR (by its times)" in listed
    assert "1 'localizer': localizer, 9 images of 12 x 10, 1.5 x 2" in listed


def test_a_series_by_its_number(tmp_path):
    folder = _person(tmp_path / "p")
    wish = reading.Wish(contrast="T1", series="4")
    volume = reading.read(folder, wish)
    assert volume.series == "1.2.3.4" and "taken, as asked for" in volume.warnings[0]
    with pytest.raises(errors.UserError, match="--series=44: no such series"):
        reading.read(folder, reading.Wish(series="44"))
    save(folder, _images("3.11", {**DWI, "SeriesNumber": 4}, 5))
    with pytest.raises(errors.UserError, match=r"2 series of this number.*1\.2\.3\.11"):
        reading.read(folder, wish)
    assert reading.read(folder, reading.Wish(series="1.2.3.4")).series == "1.2.3.4"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8)), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(errors.UserError, match="no DICOM folder"):
        reading.read(tmp_path / "x.nii", wish)


@pytest.mark.parametrize("same", ["images", "pixels"])
def test_a_series_that_was_sent_twice_counts_once(tmp_path, same):
    folder = _person(tmp_path / "p")
    copies = _images("30", {**T1, "SeriesNumber": 103})
    for k, d in enumerate(copies.values()):
        if same == "images":
            d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
    save(folder, copies)
    assert reading.read(folder, reading.Wish(contrast="T1")).series == "1.2.3"


def test_one_series_alone_is_taken_and_its_other_contrast_said(tmp_path):
    save(tmp_path / "s", _images("3", FLAIR))
    volume = reading.read(tmp_path / "s", reading.Wish(contrast="T1"))
    check(volume)
    assert "it looks like no T1, and is the only one" in volume.warnings[0]
    # A cohort's table may write contrasts small; a choice among several reads them alike.
    assert not reading.read(tmp_path / "s", reading.Wish(contrast="flair")).warnings
    assert reading.read(tmp_path / "s", reading.Wish(contrast="FLAIR")).warnings == ()


@pytest.mark.parametrize(
    ("values", "contrast"),
    [
        (T1, "T1"), (T2, "T2"), (FLAIR, "FLAIR"), (DWI, "DWI"), (WITH_AGENT, "T1CE"),
        ({**T1, "ContrastBolusAgent": "Dotarem"}, "T1CE"),
        ({**T1, "ContrastBolusAgent": "none"}, "T1"),
        ({**T1, "SeriesDescription": "T1 pre", "ContrastBolusAgent": "Gadovist"}, ""),
        ({**T1, "SeriesDescription": "3D sag"}, "T1"),
        ({**T1, "EchoTime": 90, "InversionTime": 2500}, ""),
        ({**FLAIR, "SeriesDescription": "T1 FLAIR", "EchoTime": 10, "InversionTime": 800}, "T1"),
        ({"SeriesDescription": "T2* gre"}, "SWI"),
        ({"SeriesDescription": "TOF 3D t1"}, "ANGIO"),
        ({"SeriesDescription": "3D sag"}, ""),
    ],
)  # fmt: skip
def test_what_tags_say_of_the_contrast(tmp_path, values, contrast):
    save(tmp_path / "s", {"one": image(0, **values)})
    (found,) = dicom_series.list_series(epath.Path(tmp_path / "s"))
    assert found.contrast == contrast, found.why


def _tree(root):
    """A CD: an index above, a folder a series."""
    for number, values in {"1": SCOUT, "3": T1, "4": T2}.items():
        name = number if number == "3" else f"3.{number}"
        save(root, {})
        (root / "IMG").mkdir(exist_ok=True)
        save(root / "IMG" / f"S{number}", _images(name, values, 0 if number == "3" else 2))
    save(root, {"DICOMDIR": report(uid.MediaStorageDirectoryStorage)})
    (root / "README.TXT").write_text("a viewer")


def test_series_folders_of_one_study_are_one_scan(tmp_path):
    _tree(tmp_path / "cd")
    found, single = discovery.discover(str(tmp_path / "cd"))
    assert single and [scan.path for scan in found] == [epath.Path(tmp_path / "cd")]
    volume = reading.read(found[0].path, reading.Wish(contrast="T1"))
    check(volume)
    assert volume.sha256 == reading.digest(found[0].path)
    for one in ("a", "b"):
        _tree(tmp_path / "people" / one) if (tmp_path / "people").mkdir(exist_ok=True) else None
    shutil.copytree(tmp_path / "cd", tmp_path / "people" / "a")
    shutil.copytree(tmp_path / "cd", tmp_path / "people" / "b")
    for file in (tmp_path / "people" / "b").rglob("*_*"):
        file.write_bytes(file.read_bytes().replace(b"1.2.99", b"1.2.98"))
    found, single = discovery.discover(str(tmp_path / "people"))
    assert not single and [scan.name for scan in found] == ["a_IMG", "b_IMG"]
    # A pattern names folders, each for itself.
    assert len(discovery.discover(str(tmp_path / "people"), "*")[0]) == 6


def _zip(path, folder, names=None, change=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
            info = zipfile.ZipInfo(names[k] if names else f"Doe Jane/{file.name}")
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, file.read_bytes())
    return path


def test_a_zip_of_dicom_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    path = _zip(tmp_path / "scan.zip", _person(tmp_path / "p"))
    volume = reading.read(path, reading.Wish(contrast="T1"))
    check(volume)
    assert volume.source == str(path) and volume.sha256 == reading.digest(path)
    assert "Doe" not in " ".join(volume.warnings)
    with pytest.raises(errors.UserError, match=r"scan\.zip': no series is the PD") as error:
        reading.read(path, reading.Wish(contrast="PD"))
    assert str(tmp_path / "tmp") not in str(error.value)
    assert not list((tmp_path / "tmp").iterdir())
    (tmp_path / "other.zip").write_bytes(b"PK no archive")
    found, single = discovery.discover(str(tmp_path), "")
    assert "scan" in [scan.name for scan in found] and not single
    assert "other" not in [scan.name for scan in found]


def test_objects_are_made_from_the_files_of_a_zip(tmp_path):
    folder = tmp_path / "s"
    dicom_cases.write(folder)
    save(folder, _images("3.4", T2, 2))
    path = epath.Path(_zip(tmp_path / "x.zip", folder))
    volume = reading.read(path, reading.Wish(series="1.2.3"))
    sources = dicom_objects.read_sources(path, volume)
    assert len(sources.images) == COUNT
    assert {image.SeriesInstanceUID for image in sources.images} == {"1.2.3"}
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(errors.UserError, match="has changed since"):
        dicom_objects.read_sources(path, volume)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "..\\x", "C:\\x", "\\\\host\\x"])
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    save(tmp_path / "s", {"one": image(0)})
    path = _zip(tmp_path / "x.zip", tmp_path / "s", [name])
    with pytest.raises(errors.UserError, match=r"x\.zip': the archive holds a name that leads"):
        reading.read(path)


def test_what_else_a_zip_may_not_be(tmp_path, monkeypatch):
    save(tmp_path / "s", {f"{k}": image(k) for k in range(3)})

    def link(info):
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(errors.UserError, match="a link or a device"):
        reading.read(_zip(tmp_path / "link.zip", tmp_path / "s", change=link))
    whole = _zip(tmp_path / "x.zip", tmp_path / "s")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(errors.UserError, match="damage"):
        reading.read(tmp_path / "cut.zip")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "notes.txt").write_text("text")
    with pytest.raises(errors.UserError, match="no DICOM file"):
        reading.read(_zip(tmp_path / "none.zip", tmp_path / "n"))
    monkeypatch.setattr(zip_archive, "_MOST_FILES", 2)
    with pytest.raises(errors.UserError, match="3 files; accepted: at most 2"):
        reading.read(whole)


def test_a_zip_that_unpacks_to_far_more_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_archive, "_ALWAYS", 2**16)
    save(tmp_path / "s", {"one": image(0)})
    with (tmp_path / "s" / "one").open("ab") as file:
        file.write(bytes(2**24))
    with pytest.raises(errors.UserError, match="far more than the archive weighs"):
        reading.read(_zip(tmp_path / "x.zip", tmp_path / "s"))


def _mosaic(folder):
    return save(folder, {"one": image(0, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])})


def test_what_is_not_read_points_to_dcm2niix(tmp_path, monkeypatch):
    path = _mosaic(tmp_path / "s")
    with pytest.raises(dicom_files.NotCarried, match=r"mosaic.*--dcm2niix has dcm2niix convert"):
        reading.read(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UserError, match="'dcm2niix' is not on the PATH"):
        reading.read(path, reading.Wish(dcm2niix=True))


def _program(folder, monkeypatch, lines):
    folder.mkdir()
    script = folder / converter.PROGRAM
    script.write_text("#!/bin/sh\n" + lines)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_our_side_of_the_converters_contract(tmp_path, monkeypatch):
    array = np.random.default_rng(1).integers(1, 90, (9, 10, 11)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), tmp_path / "made.nii")
    script = 'cd "$(dirname "$0")/.."; echo "$@" > said; ls "$9" > files; cp made.nii "$8/scan.nii"'
    _program(tmp_path / "bin", monkeypatch, script)
    path = _mosaic(tmp_path / "s")
    volume = reading.read(path, reading.Wish(dcm2niix=True))
    np.testing.assert_array_equal(volume.data, array)
    assert volume.source == path and volume.series is None
    assert volume.sha256 == reading.digest(path)
    assert "converted by dcm2niix, as it is not read here: 'one' is a mosaic" in volume.warnings[0]
    said = (tmp_path / "said").read_text().split()
    assert said[:7] == ["-b", "n", "-z", "n", "-f", "scan", "-o"]
    assert (tmp_path / "files").read_text() == "000000.dcm\n"
    assert not os.path.exists(said[8]) and not os.path.exists(said[7])


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("exit 0", "made 0 images and ended with status 0"),
        ('touch "$8/a.nii" "$8/b.nii"', "made 2 images"),
        ('touch "$8/a.nii"; exit 8', "status 8"),
        ("sleep 60 & sleep 60", "longer than 1 s"),
    ],
)
def test_a_converter_that_fails_is_one_line(tmp_path, monkeypatch, script, text):
    monkeypatch.setattr(converter, "_MOST_SECONDS", 1)
    _program(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(errors.UserError, match=text):
        reading.read(_mosaic(tmp_path / "s"), reading.Wish(dcm2niix=True))


@pytest.mark.skipif(not shutil.which(converter.PROGRAM), reason="dcm2niix is not installed")
def test_dcm2niix_itself_gives_the_same_voxels(tmp_path):
    folder = epath.Path(dicom_writer.series(tmp_path / "s", SeriesNumber=3, PatientID="p"))
    paths = [path for path in folder.iterdir()]
    with converter.converted(paths, "s") as made:
        found = volumes.read(made)
    expected = volumes.read(folder)
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-2)
