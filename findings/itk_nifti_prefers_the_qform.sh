#!/usr/bin/env bash
# A NIfTI header may hold two matrices. nibabel takes the sform whenever its code is above 0. SimpleITK
# 2.5.7 takes it only where its code is 1, or where no qform is coded: at codes 2 to 4 beside a coded
# qform (as SPM's coregistration leaves files) it takes the qform, without a word. So one file lies at two
# places, and a mask that SimpleITK writes for it does not lie where nibabel puts the scan. In the same
# reader `scl_inter` is added where `scl_slope` is 0, where the format asks for no scaling, as nibabel does.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.4.6

cat > "$folder/show.py" <<'CODE'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

path = sys.argv[1] + "/scan.nii"
data = np.arange(20 * 22 * 24, dtype=np.int16).reshape(20, 22, 24)
by_sform, by_qform = np.eye(4), np.eye(4)
by_sform[:3, 3] = -30.0, -40.0, -50.0
by_qform[:3, 3] = -10.0, -40.0, -50.0
said = []
for s_code in range(5):
    for q_code in range(3):
        image = nib.Nifti1Image(data, None)
        image.header["qform_code"] = 0
        image.set_sform(by_sform, s_code)
        image.set_qform(by_qform, q_code)
        nib.save(image, path)
        theirs = -sitk.ReadImage(path).GetOrigin()[0]  # LPS -> RAS
        ours = nib.load(path).affine[0, 3]
        names = {-30.0: "sform", -10.0: "qform"}
        said.append((s_code, q_code, names.get(ours, "none"), names.get(theirs, "none")))
for row in said:
    print("sform code %d, qform code %d: nibabel takes the %s, SimpleITK the %s" % row)

image = nib.Nifti1Image(data, by_sform)
nib.save(image, path)
content = bytearray(open(path, "rb").read())
content[112:116] = np.float32(0).tobytes()  # scl_slope
content[116:120] = np.float32(1000).tobytes()  # scl_inter
open(path, "wb").write(content)
first = float(nib.load(path).get_fdata()[0, 0, 0]), float(sitk.ReadImage(path)[0, 0, 0])
print("scl_slope 0, scl_inter 1000, stored 0: nibabel %g, SimpleITK %g" % first)
wanted = {
    (s, q): ("sform" if s else "qform" if q else "none", "sform" if s == 1 or s and not q else "qform" if q else "none")
    for s in range(5)
    for q in range(3)
}
same = all(wanted[row[:2]] == row[2:] for row in said) and first == (0.0, 1000.0)
sys.exit(0 if same else "this has changed: see scans/nifti_grid.py")
CODE
"$python" --version
"$python" "$folder/show.py" "$folder"
