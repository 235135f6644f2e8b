"""What lies among the slices of a folder: copies, other objects, other series, odd files."""

import shutil
import zlib

import numpy as np
import pydicom
import pytest
from etils import epath
from pydicom import uid

from madad_jax.core import errors
from madad_jax.scans import dicom_files, volumes
from tests.scans import dicom_writer
from tests.scans.dicom_writer import COUNT, PIXELS, check, image, report, save, series


def _pixels(kind, modality, **values):
    """An object with pixels that is no scan."""
    d = image(0, "1.2.8", SOPClassUID=kind, SOPInstanceUID="8.1", Modality=modality, **values)
    d.file_meta.MediaStorageSOPClassUID = kind
    return d


OBJECTS = {
    "Media Storage Directory": report(uid.MediaStorageDirectoryStorage),
    "Basic Text SR": report(),
    "Grayscale Softcopy Presentation State": report(
        uid.GrayscaleSoftcopyPresentationStateStorage, SeriesInstanceUID="1.2.3"
    ),
    "Segmentation": _pixels(uid.SegmentationStorage, "SEG"),
    "object of Modality SEG": _pixels("1.2.840.10008.5.1.4.1.1.66.7", "SEG"),
    "Parametric Map": _pixels(uid.ParametricMapStorage, "MR"),
    "RT Dose": _pixels(uid.RTDoseStorage, "RTDOSE"),
    "Secondary Capture Image": _pixels(uid.SecondaryCaptureImageStorage, "MR"),
    "Multi-frame True Color Secondary Capture Image": _pixels(
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage, "MR", SamplesPerPixel=3
    ),
    "object of Modality US": image(0, "1.2.8", SOPInstanceUID="8.1", Modality="US"),
    "image without pixels": report(uid.MRImageStorage, Modality="MR"),
    "localizer": image(0, "1.2.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_an_object_that_is_no_scan_is_left_out(tmp_path, what):
    path = series(tmp_path / "s")
    for k in range(2):
        save(tmp_path / "s", {f"more{k}": OBJECTS[what]})
        (tmp_path / "s" / f"more{k}").open("ab").write(b"\0" * 2 * k)  # not a copy by its bytes
    volume = volumes.read(path)
    check(volume)
    assert volume.warnings == (f"left out, no scan: {what}: 2 ('more0', 'more1')",)


@pytest.mark.parametrize("what", sorted(OBJECTS.keys() - {"Secondary Capture Image"}))
def test_such_an_object_alone_is_named(tmp_path, what):
    path = save(tmp_path / "s", {"one": OBJECTS[what]})
    with pytest.raises(errors.UserError, match=f"no DICOM images.*{what}: 1 .*MR or CT"):
        volumes.read(path)


def test_a_scan_that_was_written_as_captures(tmp_path):
    kind = uid.SecondaryCaptureImageStorage
    check(volumes.read(series(tmp_path / "s", SOPClassUID=kind, Modality="OT")))


def test_a_scan_without_class_and_modality(tmp_path):
    def change(k, d):
        del d.SOPClassUID, d.Modality
        d.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"

    check(volumes.read(series(tmp_path / "s", change=change)))


def test_ct_is_accepted(tmp_path):
    check(volumes.read(series(tmp_path / "s", SOPClassUID=uid.CTImageStorage, Modality="CT")))


def test_copies_count_once(tmp_path):
    path = series(tmp_path / "s")
    plain = volumes.read(path)
    for k in (1, 3):
        shutil.copy(tmp_path / "s" / f"{k}.dcm", tmp_path / "s" / f"{k} (1).dcm")
    volume = volumes.read(path)
    np.testing.assert_array_equal(volume.data, plain.data)
    assert volume.warnings == ("left out, copies of other files: 2 ('1 (1).dcm', '3 (1).dcm')",)


@pytest.mark.parametrize("values", [{"PatientName": "Anonymous"}, {"SOPInstanceUID": "7.7"}])
def test_copies_with_another_header_count_once(tmp_path, values):
    path = series(tmp_path / "s")
    save(tmp_path / "s", {f"{k} (1).dcm": image(k, **values) for k in (0, 4)})
    if "SOPInstanceUID" in values:
        save(tmp_path / "s", {f"{k} (1).dcm": image(k, SOPInstanceUID=f"7.{k}") for k in (0, 4)})
    volume = volumes.read(path)
    check(volume)
    assert "copies of other files: 2 ('0 (1).dcm', '4 (1).dcm')" in volume.warnings[0]


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.ExplicitVRBigEndian])
def test_copies_in_another_encoding_count_once(tmp_path, syntax):
    path = series(tmp_path / "s")
    packed = image(4)
    if syntax == uid.RLELossless:
        packed.compress(syntax, generate_instance_uid=False)
    else:
        packed.file_meta.TransferSyntaxUID = syntax
        packed.PixelData = PIXELS[4].astype(">u2").tobytes()
    save(tmp_path / "s", {"x (1).dcm": packed})
    volume = volumes.read(path)
    check(volume)
    assert volume.warnings == ("left out, copies of other files: 1 ('x (1).dcm')",)


def test_a_copied_multi_frame_file_counts_once(tmp_path):
    d = dicom_writer.multi_frame()
    path = save(tmp_path / "s", {"a.dcm": d})
    d.PatientName = "Anonymous"
    save(tmp_path / "s", {"b.dcm": d})
    check(volumes.read(path))


@pytest.mark.parametrize(
    "values",
    [{"PixelData": PIXELS[5].tobytes()}, {"RescaleSlope": "3.0"}, {"PixelSpacing": [1.5, 2.001]}],
    ids=["pixels", "slope", "spacing"],
)
def test_one_uid_with_two_contents_is_refused(tmp_path, values):
    path = series(tmp_path / "s")
    save(tmp_path / "s", {"x.dcm": image(4, **values)})
    with pytest.raises(errors.UserError, match=r"x\.dcm' and '2\.dcm' are the same image by"):
        volumes.read(path)


@pytest.mark.parametrize("uid_of_all", ["1.2.3.4", ""])
def test_a_series_whose_images_have_one_uid(tmp_path, uid_of_all):
    """As some programs leave it that take names out."""
    check(volumes.read(series(tmp_path / "s", SOPInstanceUID=uid_of_all)))


def test_a_stray_image_of_another_series_is_left_out(tmp_path):
    path = series(tmp_path / "s")
    stray = image(0, "9.9", SeriesNumber=7, SeriesDescription="scout \x1b[31m" + "x" * 50)
    save(tmp_path / "s", {"x.dcm": stray})
    volume = volumes.read(path)
    check(volume)
    (said,) = volume.warnings
    assert said.startswith("left out: series 7 'scout \\x1b[31m")
    assert said.endswith("…', 1 image of 12 x 10, first 'x.dcm'") and len(said) < 120


def test_a_localizer_of_three_directions_is_left_out(tmp_path):
    path = series(tmp_path / "s")
    turns = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    for k in range(15):
        d = image(k, "9.9", ImageOrientationPatient=turns[k % 3], SeriesDescription="3 plane")
        save(tmp_path / "s", {f"loc{k:02d}.dcm": d})
    volume = volumes.read(path)
    check(volume)
    assert len(volume.warnings) == 3 and "'3 plane', 5 images" in volume.warnings[0]


def test_an_image_of_another_size_in_the_series_is_left_out(tmp_path):
    path = series(tmp_path / "s")
    save(tmp_path / "s", {"x.dcm": image(30, Rows=6, PixelData=PIXELS[0, :6].tobytes())})
    volume = volumes.read(path)
    check(volume)
    assert "1 image of 6 x 10, first 'x.dcm'" in volume.warnings[0]


def test_two_scans_are_listed_so_that_one_can_be_kept(tmp_path):
    path = series(tmp_path / "s", SeriesNumber=3, SeriesDescription="T1 MPRAGE")
    flair = {"SeriesNumber": 5, "SeriesDescription": "FLAIR"}
    save(tmp_path / "s", {f"f{k}": image(k, "1.2.5", **flair) for k in range(8)})
    save(tmp_path / "s", {"x": image(0, "9.9", SeriesDescription="a stray")})
    with pytest.raises(errors.UserError) as caught:
        volumes.read(path)
    assert "has 2 DICOM series; accepted: one a folder" in str(caught.value)
    assert "series 3 'T1 MPRAGE', 9 images of 12 x 10, first '0.dcm'" in str(caught.value)
    assert "series 5 'FLAIR', 8 images of 12 x 10, first 'f0'" in str(caught.value)


def test_two_stacks_of_one_series_are_listed(tmp_path):
    path = series(tmp_path / "s")
    more = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SOPInstanceUID": "9"}
    for k in range(8):
        save(tmp_path / "s", {f"x{k}": image(k, **(more | {"SOPInstanceUID": f"9.{k}"}))})
    with pytest.raises(errors.UserError, match=r"different size, spacing or orientation.*8 images"):
        volumes.read(path)


def test_files_that_are_not_dicom_are_ignored(tmp_path):
    path = series(tmp_path / "s")
    for name in ("Thumbs.db", "autorun.inf", "index.xml", "picture.jpg", "viewer.exe", ".DS_Store"):
        (tmp_path / "s" / name).write_bytes(b"MZ" + name.encode() * 200)
    (tmp_path / "s" / "below").mkdir()
    assert volumes.read(path).warnings == ()
    (tmp_path / "s" / "empty.dcm").write_bytes(b"")
    volume = volumes.read(path)
    check(volume)
    assert volume.warnings == ("left out, no DICOM inside: 1 ('empty.dcm')",)


def test_a_small_unreadable_file_is_left_out_and_a_damaged_slice_is_not(tmp_path):
    path = series(tmp_path / "s")
    (tmp_path / "s" / "junk").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 20)
    volume = volumes.read(path)
    check(volume)
    assert len(volume.warnings) == 1 and "'junk'" in volume.warnings[0]
    assert str(tmp_path) not in volume.warnings[0]
    whole = (tmp_path / "s" / "0.dcm").read_bytes()
    (tmp_path / "s" / "0.dcm").write_bytes(whole[:132] + b"\xff" * 20 + whole[152:])
    with pytest.raises(errors.UserError, match=r"0\.dcm'"):
        volumes.read(path)


def test_files_without_the_preamble_are_read(tmp_path):
    path = series(tmp_path / "s")
    for file in (tmp_path / "s").iterdir():
        d = pydicom.dcmread(file)
        d.file_meta, d.preamble = pydicom.dataset.FileMetaDataset(), None
        pydicom.dcmwrite(file, d, implicit_vr=True, little_endian=True)
        assert file.read_bytes()[:2] == b"\x08\x00"
    check(volumes.read(path))


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless]
)
def test_files_whose_preamble_alone_is_missing_are_read(tmp_path, syntax):
    path = series(tmp_path / "s")
    for file in (tmp_path / "s").iterdir():
        d = pydicom.dcmread(file)
        if syntax.is_compressed:
            d.compress(syntax, generate_instance_uid=False)
        d.file_meta.TransferSyntaxUID, d.preamble = syntax, None
        pydicom.dcmwrite(file, d)
        assert file.read_bytes()[:2] == b"\x02\x00"
    check(volumes.read(path))
    assert all(dicom_files.may_hold_scan(file) for file in epath.Path(path).iterdir())


def test_an_object_of_the_makers_own_in_the_series_is_left_out(tmp_path):
    path = series(tmp_path / "s")
    own = report(uid.UID("1.3.12.2.1107.5.9.1"), Modality="MR", SeriesInstanceUID="1.2.3")
    save(tmp_path / "s", {"own.dcm": own})
    volume = volumes.read(path)
    check(volume)
    assert "own.dcm" in volume.warnings[0]


def test_a_modality_in_small_letters(tmp_path):
    check(volumes.read(series(tmp_path / "s", Modality="mr ")))


def test_pixels_of_no_stated_kind_are_not_called_colour(tmp_path):
    path = series(tmp_path / "s", PhotometricInterpretation="")
    with pytest.raises(errors.UserError, match="lacks PhotometricInterpretation"):
        volumes.read(path)


def _deflated(tmp_path, change=lambda stream: stream):
    path = series(tmp_path / "s")
    for file in (tmp_path / "s").iterdir():
        d = pydicom.dcmread(file)
        d.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        pydicom.dcmwrite(file, d, enforce_file_format=True)
    one = tmp_path / "s" / "0.dcm"
    content = one.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    one.write_bytes(content[:start] + change(content[start:]))
    return path


def test_a_deflated_series(tmp_path):
    check(volumes.read(_deflated(tmp_path)))


def test_a_deflated_file_without_its_end_is_refused(tmp_path):
    path = _deflated(tmp_path, lambda stream: stream[:-40])
    with pytest.raises(errors.UserError, match=r"0\.dcm' is a damaged DICOM.*has no end"):
        volumes.read(path)


def test_a_deflated_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files, "_ALWAYS_BYTES", 2**16)

    def grow(stream):
        plain = zlib.decompress(stream, -15) + b"\0" * 2**20
        packer = zlib.compressobj(9, wbits=-15)
        return packer.compress(plain) + packer.flush()

    with pytest.raises(errors.UserError, match=r"0\.dcm' .*more than \d+ bytes"):
        volumes.read(_deflated(tmp_path, grow))


def test_the_class_in_a_files_first_bytes_says_whether_it_is_a_scan(tmp_path):
    kinds = {"DICOMDIR": report(uid.MediaStorageDirectoryStorage), "report": report(),
             "slice": image(0), "mask": OBJECTS["Segmentation"]}  # fmt: skip
    save(tmp_path / "s", kinds)
    (tmp_path / "s" / "notes.txt").write_text("not DICOM")
    (tmp_path / "s" / "bare").write_bytes(b"\0" * 128 + b"DICM")
    found = {p.name for p in (tmp_path / "s").iterdir() if dicom_files.may_hold_scan(epath.Path(p))}
    assert found == {"slice", "bare"}


def test_the_digest_is_of_all_files(tmp_path):
    from madad_jax.core import atomic_files

    path = series(tmp_path / "s", count=COUNT)
    (tmp_path / "s" / "notes.txt").write_text("a note")
    shutil.copy(tmp_path / "s" / "1.dcm", tmp_path / "s" / "copy.dcm")
    assert volumes.read(path).sha256 == atomic_files.sha256(path)
