"""Tables find the files of published layouts, and nothing else."""

import pytest

from madad_jax.core import errors
from madad_jax.prepare import __main__ as command
from madad_jax.prepare import cohorts, splits

LAYOUTS = {
    "brats": {
        "BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz": (
            "BraTS20_Training_001",
            "BraTS20_Training_001",
        ),
        "x/BraTS2021_00002/BraTS2021_00002_{t1,t1ce,t2,flair,seg}.nii.gz": (
            "BraTS2021_00002",
            "BraTS2021_00002",
        ),
        "BraTS-GLI-00003-001/BraTS-GLI-00003-001-{t1n,t1c,t2w,t2f,seg}.nii.gz": (
            "BraTS-GLI-00003-001",
            "BraTS-GLI-00003",
        ),
    },
    "ixi": {"IXI-T1/IXI002-Guys-0828-{T1}.nii.gz": ("IXI002-Guys-0828", "IXI002")},
    "atlas": {
        "Training/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_"
        "{T1w,label-L_desc-T1lesion_mask}.nii.gz": ("sub-r001s001_ses-1", "sub-r001s001")
    },
    "mslub": {
        "patient01/patient01_{FLAIR,T1W,T1WKS,T2W,brainmask,consensus_gt}.nii.gz": (
            "patient01",
            "patient01",
        )
    },
    "wmh": {
        "training/Amsterdam/GE3T/100/{pre/FLAIR,pre/T1,orig/FLAIR,wmh}.nii.gz": (
            "Amsterdam-GE3T-100",
            "Amsterdam-GE3T-100",
        ),
        "training/Utrecht/0/{pre/FLAIR,pre/T1,orig/FLAIR,wmh}.nii.gz": ("Utrecht-0", "Utrecht-0"),
    },
}


def touch(root, pattern):
    head, _, rest = pattern.partition("{")
    names, _, tail = rest.partition("}")
    for name in names.split(","):
        path = root / f"{head}{name}{tail}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(tmp_path, name):
    for pattern in LAYOUTS[name]:
        touch(tmp_path, pattern)
    (tmp_path / "IXI002-Guys-0828-T1_mask.nii.gz").touch()  # Neighbours that are not scans.
    (tmp_path / "readme.txt").touch()
    cohort = cohorts.load(name)
    modalities = tuple(m for m in cohort.images if m not in ("PD",))
    modalities = ("T1",) if name == "ixi" else modalities
    found = cohorts.find(cohort, tmp_path, modalities)
    assert found.refused == {}
    expected = sorted(LAYOUTS[name].values())
    assert [(item.scan, item.subject) for item in found.items] == expected
    for item in found.items:
        assert tuple(item.images) == modalities
        assert all("orig" not in path for path in item.paths)
        assert bool(item.segmentation) == (name != "ixi")
        assert item.healthy == (name == "ixi")


def test_the_modalities_of_brats_are_not_mixed_up(tmp_path):
    for pattern in LAYOUTS["brats"]:
        touch(tmp_path, pattern)
    found = cohorts.find(cohorts.load("brats"), tmp_path, ("T1", "T1CE", "T2", "FLAIR"))
    ends = {
        "T1": ("_t1.nii.gz", "-t1n.nii.gz"),
        "T1CE": ("_t1ce.nii.gz", "-t1c.nii.gz"),
        "T2": ("_t2.nii.gz", "-t2w.nii.gz"),
        "FLAIR": ("_flair.nii.gz", "-t2f.nii.gz"),
    }
    for item in found.items:
        for modality, path in item.images.items():
            assert path.endswith(ends[modality])


def table(**values):
    return cohorts.from_dict({"title": "x", "images": {"T1": "{id}/t1{nii}"}} | values, "x.yaml")


def test_series_are_folders(tmp_path):
    (tmp_path / "p1" / "T1").mkdir(parents=True)
    (tmp_path / "p2").mkdir()
    (tmp_path / "p2" / "T1").touch()
    found = cohorts.find(table(images={"T1": "{id}/T1/"}), tmp_path, ("T1",))
    assert [item.images["T1"] for item in found.items] == [str(tmp_path / "p1" / "T1")]


def test_ids_become_file_names(tmp_path):
    for name in ("site a/1", "site b/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "t1.nii").touch()
    found = cohorts.find(table(id="[^/]+/[^/]+"), tmp_path, ("T1",))
    assert [item.scan for item in found.items] == ["site_a-1", "site_b-1"]


def test_ids_that_would_share_file_names_are_refused(tmp_path):
    for name in ("A", "a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t1.nii").touch()
    found = cohorts.find(table(), tmp_path, ("T1",))
    assert [item.scan for item in found.items] == ["b"]
    assert "duplicate id" in found.refused["a"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image": {}}, "did you mean 'images'"),
        ({"images": {"T1": "t1.nii"}}, "contains {id}"),
        ({"images": {"brainmask": "{id}"}}, "neither brainmask"),
        ({"images": {"T1-w": "{id}"}}, "letters, digits"),
        ({"id": "("}, "no regular expression"),
        ({"labels": ["1"]}, "numbers above 0"),
        ({"healthy": "yes"}, "true or false"),
        ({"options": {"regstration": "none"}}, "did you mean 'registration'"),
        ({"images": {}}, "'images' is missing"),
    ],
)
def test_mistakes_in_tables(values, text):
    with pytest.raises(errors.UserError, match=text):
        table(**values)


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(errors.UserError, match="no file of IXI; looked for"):
        cohorts.find(cohorts.load("ixi"), tmp_path, ("T1",))
    with pytest.raises(errors.UserError, match="did you mean 'brats'"):
        cohorts.load("brat")


def test_tables_run_nothing(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("title: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(errors.UserError, match="no YAML"):
        cohorts.load("folder", str(path))


def test_a_table_without_a_title_is_called_by_its_file():
    assert cohorts.from_dict({"images": {"T1": "{id}{nii}"}}, "in/ours.yaml").title == "ours"
    assert table(title="Mine").title == "Mine"


BIDS = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-fast_run-1_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-fast_run-2_T1w.nii",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-012/anat/sub-012_T1w.nii.gz",
)
NO_BIDS = (
    "sub-02/anat/sub-02_ce-gd_T1w.nii.gz",
    "sub-02/anat/sub-02_space-MNI152_T1w.nii.gz",
    "sub-02/anat/sub-02_desc-brain_T1w.nii.gz",
    "sub-02/anat/sub-02_desc-brain_mask.nii.gz",
    "sub-02/anat/sub-02_part-phase_T1w.nii.gz",
    "sub-02/anat/sub-02_T1map.nii.gz",
    "sub-02/func/sub-02_T1w.nii.gz",
    "derivatives/x/sub-03/anat/sub-03_T1w.nii.gz",
    "sourcedata/sub-03/anat/sub-03_T1w.nii.gz",
)


def test_bids_takes_raw_images_and_people_are_the_unit(tmp_path):
    for name in (*BIDS, *NO_BIDS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    cohort = cohorts.load("bids")
    found = cohorts.find(cohort, tmp_path, ("T1",))
    assert [(item.scan, item.subject) for item in found.items] == [
        ("sub-012", "sub-012"),
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2_acq-fast_run-1", "sub-01"),
        ("sub-01_ses-2_acq-fast_run-2", "sub-01"),
        ("sub-02", "sub-02"),
    ]
    assert found.refused == {}
    both = cohorts.find(cohort, tmp_path, ("T1", "FLAIR"))
    assert [item.scan for item in both.items] == ["sub-01_ses-1"]
    # Whatever the seed: sessions and runs of a person stand in one split.
    for seed in range(20):
        placed, _ = splits.assign(found.items, fractions=cohort.fractions, seed=seed)
        by_person = {(item.subject, item.split) for item in placed}
        assert len(by_person) == 3


def test_bids_asks_whether_people_are_healthy():
    words = ["prepare", "--cohort=bids", "--in=x", "--out=y", "--modality=T1"]
    for more, healthy in ((["--healthy"], True), (["--nohealthy"], False)):
        options = command.make_flags()
        options([*words, *more])
        assert command.make_job(options).cohort.healthy is healthy
    options = command.make_flags()
    options(words)
    with pytest.raises(errors.UserError, match="--healthy is missing"):
        command.make_job(options)
