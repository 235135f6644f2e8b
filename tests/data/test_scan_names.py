"""Names that files may have, and what becomes of them in folders, tables and terminals."""

import csv
import io

import pytest
from etils import epath

from madad_jax.data import name_rules, scan_names
from madad_jax.predict import scan_folder

HOSTILE = (
    "=1+1", "+1", "-1", "@sum", "\tx", "a\nb", "a\x1b[31mred", "../up", ".hidden", "..", ".", "",
    "scans.csv", "SCANS.CSV", "scans.csv.process_0", "half.new", "a" * 400, "ü" * 200, "<b>&",
    'quote"s', "ends. ", "|[x](y)`", "\u202egnp",
)  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_name_is_a_plain_one(path):
    (name,) = scan_names.output_names([path])
    assert name.isprintable() and name and len(name.encode()) <= 160
    assert not set(name) & set('/\\<>|"*?:\n&`[]')
    assert name[0] not in "=+-@. " and name[-1] not in ". "
    assert not name.casefold().startswith("scans.csv") or name.endswith("_scan")
    assert not name.endswith(".new")


def test_ordinary_names_stay():
    paths = ["sub-01/anat/sub-01_T1w", "Müller 2", "日本", "a.b"]
    expected = ["sub-01_anat_sub-01_T1w", "Müller 2", "日本", "a.b"]
    assert scan_names.output_names(paths) == expected


@pytest.mark.parametrize(
    "paths", [["x.nii", "x.nii.gz"], ["A", "a"], ["a/b", "a_b"], ["u\u0308", "ü"], ["a?", "a*"]]
)
def test_names_that_fall_together_get_digits(paths):
    names = scan_names.output_names(paths)
    assert len({name.casefold() for name in names}) == 2
    assert all(len(name.rpartition("-")[2]) == 8 for name in names)


def test_a_name_that_has_the_digits_of_another():
    first, second = scan_names.output_names(["x.nii", "x.nii.gz"])
    names = scan_names.output_names(["x.nii", "x.nii.gz", f"{first}.nii", f"{second.upper()}.nii"])
    assert len({name.casefold() for name in names}) == 4


def test_a_cell_is_no_formula():
    rows = [
        {"scan": "a", "status": "failed", "score": -0.5, "message": "=cmd|' /C calc'!A0"},
        {"scan": "b", "status": "done", "score": "-0.5", "message": "one\ntwo \x1b[31m"},
    ]
    table = io.StringIO()
    path = epath.Path("/nowhere/scans.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scan_folder.atomic_files, "write_bytes", lambda _, text: table.write(text.decode())
        )
        scan_folder._write_table(path, rows)
    first, second = csv.DictReader(io.StringIO(table.getvalue()))
    assert first["message"] == "'=cmd|' /C calc'!A0" and first["score"] == "-0.5"
    assert second["message"] == "one\\ntwo \\x1b[31m" and second["score"] == "-0.5"


def test_the_last_part_alone_is_shown():
    assert scan_names.show("/data/Doe^Jane/scan.nii.gz") == "scan.nii.gz"
    assert scan_names.show("/data/series/") == "series"
    assert scan_names.show("/x/\x1b[31m.nii") == "\\x1b[31m.nii"
    assert scan_names.show("array") == "array"


@pytest.mark.parametrize(
    "stem",
    [
        "sub-01_desc-brain_mask", "sub-01_dseg", "sub-01_label-GM_probseg", "x_seg",
        "x-segmentation",
        "BraTS_001-seg", "brainmask", "aparc+aseg", "wmparc", "patient01_consensus_gt", "wmh",
        "x.lesion", "x_mask_2", "seg_001", "sub-01_label-L_desc-T1lesion_mask", "X_MASK", "roi",
        "x_pve_0", "x_prob_1", "lh.ribbon",
    ],
)  # fmt: skip
def test_a_mask_by_its_name(stem):
    assert name_rules.is_mask(stem)


@pytest.mark.parametrize(
    "stem",
    [
        "sub-01_T1w", "IXI013-HH-1212", "x_t1ce", "mask-study_001", "unlabelled", "patient_01",
        "BRATS_001_0000", "lesion_001", "sub-seg_T1w", "scan", "", "x_improb",
    ],
)  # fmt: skip
def test_no_mask_by_its_name(stem):
    assert not name_rules.is_mask(stem)


@pytest.mark.parametrize(
    ("stem", "modality", "other", "sure"),
    [
        ("sub-01_T1w", "T1", "", False),
        ("sub-01_FLAIR", "T1", "FLAIR", True),
        ("sub-01_ce-gd_T1w", "T1", "T1CE", True),
        ("sub-01_ce-gd_T1w", "T1CE", "", False),
        ("sub-01_T2w", "FLAIR", "T2", True),
        ("BraTS_t2f", "FLAIR", "", False),
        ("sub-01_task-rest_bold", "T1", "bold", True),
        ("IXI013-T2", "T1", "T2", False),
        ("anything", "T1", "", False),
        ("sub-01_FLAIR", "ultrasound", "", False),
        ("", "T1", "", False),
    ],
)
def test_another_contrast_by_its_name(stem, modality, other, sure):
    assert name_rules.other_contrast(stem, modality) == (other, sure)
