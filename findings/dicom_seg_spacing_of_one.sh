#!/usr/bin/env bash
# A DICOM segmentation that leaves out its empty frames, which is highdicom 0.28.2's default, is valid, and
# highdicom puts it where it belongs. SimpleITK 2.5.7 reads the frames that are there as a stack without a
# gap: spacing (1, 1, 1), identity direction, no error. dcm2niix 1.0.20260724 ends with status 0 and a
# volume that lies elsewhere. With every frame stored both are right, until positions have two decimals, as
# many series write them: SimpleITK then falls back to (1, 1, 1) again, and dcm2niix does not.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 \
  SimpleITK==2.5.7 dcm2niix==1.0.20260724 nibabel==5.4.2 numpy==2.4.6 2>"$folder/errors" || {
  cat "$folder/errors" >&2
  exit 1
}

cat > "$folder/show.py" <<'CODE'
import pathlib
import subprocess
import sys

import highdicom as hd
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydicom import dataset, uid
from pydicom.sr.coding import Code

folder = pathlib.Path(sys.argv[1])
COUNT, STEP = 12, 3.3333333
ROW, COLUMN = np.array([0.0, np.cos(0.2), np.sin(0.2)]), np.array([0.0, np.sin(0.2), -np.cos(0.2)])
NORMAL = np.cross(ROW, COLUMN)
FIRST = np.array([10.0, -20.0, 30.0])


def source(k, digits):
    d = dataset.Dataset()
    d.file_meta = dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d.SOPClassUID, d.SOPInstanceUID = uid.MRImageStorage, f"1.2.3.{k + 1}"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.1", "1.2.3", "1.2.2"
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(d, name, "")
    d.Modality, d.Rows, d.Columns, d.SliceThickness, d.InstanceNumber = "MR", 16, 14, 3.0, k + 1
    d.PixelSpacing = [1.5, 2.0]
    d.ImageOrientationPatient = [round(float(v), 9) for v in (*ROW, *COLUMN)]
    d.ImagePositionPatient = [round(float(v), digits) for v in FIRST + k * STEP * NORMAL]
    return d


def show(name, digits, **options):
    mask = np.zeros((COUNT, 16, 14), np.uint8)
    mask[2:4, 3:6, 4:8] = mask[8:10, 10:12, 5:7] = 1
    path = folder / f"{name}.dcm"
    algorithm = hd.AlgorithmIdentificationSequence("x", Code("123110", "DCM", "Artificial Intelligence"), "1")
    segment = hd.seg.SegmentDescription(
        1, "x", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("52988006", "SCT", "Lesion"),
        hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm)
    hd.seg.Segmentation(
        [source(k, digits) for k in range(COUNT)], mask, hd.seg.SegmentationTypeValues.BINARY, [segment],
        hd.UID(), 9, hd.UID(), 1, "x", "x", "1", "1", **options).save_as(path)
    by_itk = sitk.ReadImage(str(path))
    spacing = [round(v, 4) for v in by_itk.GetSpacing()]
    (folder / name).mkdir()
    done = subprocess.run(
        [sys.argv[2], "-z", "n", "-m", "n", "-b", "n", "-f", "x", "-o", str(folder / name), str(path)],
        capture_output=True)
    image = nib.load(folder / name / "x.nii")
    # The mask's voxels in millimetres (RAS+), and how far the nearest one of dcm2niix is at most.
    k, row, column = np.argwhere(mask).T[:, :, None]
    lps = FIRST + k * STEP * NORMAL + 2.0 * column * ROW + 1.5 * row * COLUMN
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    places = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
    off = max(np.linalg.norm(places - one * [-1, -1, 1], axis=1).min() for one in lps)
    # As highdicom's own reader has the spacing.
    own = hd.imread(path).get_volume(allow_missing_positions=True).spacing[0]
    print("%-22s highdicom %.2f mm a slice; SimpleITK spacing %s; dcm2niix status %d, %.1f mm off"
          % (name, own, spacing, done.returncode, off))
    return abs(own - STEP) < 0.01, spacing == [1.0, 1.0, 1.0], done.returncode == 0, off > 1.0


found = [
    show("empty-frames-left-out", 9),
    show("all-frames", 9, omit_empty_frames=False),
    show("all-two-decimals", 2, omit_empty_frames=False),
]
wanted = [(True, True, True, True), (True, False, True, False), (True, True, True, False)]
sys.exit(0 if found == wanted else f"this has changed: see scans/dicom_sources.py ({found})")
CODE
"$python" --version
"$python" "$folder/show.py" "$folder" "$folder/venv/bin/dcm2niix"
