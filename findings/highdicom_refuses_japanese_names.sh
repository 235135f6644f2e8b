#!/usr/bin/env bash
# DICOM lets the first of several character sets be empty (PS3.3, C.12.1.1.2): Japanese images say
# `\ISO 2022 IR 87`, Korean ones `\ISO 2022 IR 149`, as in the standard's own examples of names. pydicom
# 3.0.2 reads them. highdicom 0.28.2 makes no segmentation of such images: ValueError "'' is not a valid
# SpecificCharacterSetValues". With specific_character_set="ISO_IR 192" the same names are written in UTF-8.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6 \
  2>"$folder/errors" || {
  cat "$folder/errors" >&2
  exit 1
}

cat > "$folder/show.py" <<'CODE'
import io
import sys

import highdicom as hd
import numpy as np
import pydicom
from pydicom import dataset, uid
from pydicom.sr.coding import Code

NAMES = {
    "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


def source(k, kind):
    d = dataset.Dataset()
    d.file_meta = dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d.SpecificCharacterSet, d.PatientName = ["", kind], NAMES[kind]
    d.SOPClassUID, d.SOPInstanceUID = uid.MRImageStorage, f"1.2.3.{k + 1}"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.1", "1.2.3", "1.2.2"
    for name in ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(d, name, "")
    d.Modality, d.Rows, d.Columns, d.SliceThickness = "MR", 8, 8, 2.0
    d.PixelSpacing, d.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    d.ImagePositionPatient = [0, 0, 2 * k]
    content = io.BytesIO()
    d.save_as(content, enforce_file_format=True)
    content.seek(0)
    return pydicom.dcmread(content)  # As a file of that set is read.


def show(kind, **options):
    images = [source(k, kind) for k in range(3)]
    assert images[0].PatientName == NAMES[kind]
    algorithm = hd.AlgorithmIdentificationSequence("x", Code("123110", "DCM", "Artificial Intelligence"), "1")
    segment = hd.seg.SegmentDescription(
        1, "x", Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("52988006", "SCT", "Lesion"),
        hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm)
    try:
        made = hd.seg.Segmentation(
            images, np.ones((3, 8, 8), np.uint8), hd.seg.SegmentationTypeValues.BINARY, [segment],
            hd.UID(), 9, hd.UID(), 1, "x", "x", "1", "1", **options)
    except ValueError as error:
        said = str(error)
    else:
        content = io.BytesIO()
        made.save_as(content)
        content.seek(0)
        said = "whole" if pydicom.dcmread(content).PatientName == NAMES[kind] else "damaged"
    print("\\%-16s %-45s %s" % (kind, options, said))
    return said


found = [show(kind) for kind in NAMES]
in_utf_8 = [show(kind, specific_character_set="ISO_IR 192") for kind in NAMES]
wanted = ["'' is not a valid SpecificCharacterSetValues"] * 2, ["whole"] * 2
sys.exit(0 if (found, in_utf_8) == wanted else "this has changed: see scans/dicom_derived.py")
CODE
"$python" --version
"$python" "$folder/show.py"
