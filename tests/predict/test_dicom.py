"""A DICOM series through the detector: the map lies where the scanner said."""

import zipfile

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.predict import dicom_objects
from tests.predict import conftest
from tests.scans import dicom_writer


def write_series(folder, image, affine):
    """The scan [X,Y,Z] (affine in RAS+ mm, no rotation) as axial slices, one file each."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's millimetres run to the left and the back
    to_lps = flip @ affine
    images = {}
    for k in range(image.shape[2]):
        d = dicom_writer.image()
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        d.Rows, d.Columns = image.shape[1], image.shape[0]
        d.PixelSpacing = [abs(affine[1, 1]), abs(affine[0, 0])]
        row, column = to_lps[:3, 0], to_lps[:3, 1]
        d.ImageOrientationPatient = [
            *(row / np.linalg.norm(row)),
            *(column / np.linalg.norm(column)),
        ]
        d.ImagePositionPatient = list((to_lps @ [0, 0, k, 1])[:3])
        d.RescaleSlope, d.RescaleIntercept = "1.0", "0"
        d.PixelData = image[:, :, k].T.astype(np.uint16).tobytes()
        images[f"{k:03d}.dcm"] = d
    return dicom_writer.save(folder, images)


def test_a_series_gives_the_map_of_the_same_nifti_file(setting, tmp_path):
    image, truth, affine = conftest.brain_scan()
    image = np.round(image).astype(np.int16)
    nifti = conftest.make_detector(setting)(nib.Nifti1Image(image, affine))
    series = conftest.make_detector(setting)(write_series(tmp_path / "series", image, affine))
    series.save(tmp_path / "out")
    # The series' own axes may run otherwise; both are compared in canonical order.
    saved = nib.as_closest_canonical(nib.load(tmp_path / "out" / "anomaly.nii.gz"))
    expected = nib.as_closest_canonical(nifti.anomaly_image)
    np.testing.assert_allclose(saved.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(saved.get_fdata(), expected.get_fdata(), atol=1e-5)
    # An archive of it is the same scan.
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for file in (tmp_path / "series").iterdir():
            archive.write(file, f"study/{file.name}")
    packed = conftest.make_detector(setting)(tmp_path / "series.zip")
    np.testing.assert_array_equal(packed.anomaly, series.anomaly)
    assert packed.summary["scan"]["source"] == "series.zip"
    assert dicom_objects.is_series(packed.volume)
    with pytest.raises(errors.UserError, match=r"'series\.zip': no DICOM object.*StudyInstanceUID"):
        dicom_objects.read_sources(epath.Path(packed.volume.source), packed.volume)
    mask = np.asarray(nib.as_closest_canonical(series.mask_image).dataobj) > 0
    assert (mask & truth).sum() > 0.5 * truth.sum()
