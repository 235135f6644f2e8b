"""Co-registered scans of one person through a stand-in for a run on several contrasts."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import calibration
from madad_jax.predict import model, stacked_detector
from tests.e2e import tiny_config
from tests.predict import conftest as parts

POINT = calibration.Point(0.3, "threshold", 0.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A T1 with the lesion and a FLAIR without, on one grid."""
    folder, found = tmp_path_factory.mktemp("scans"), {}
    for name, lesion in (("T1", True), ("FLAIR", False)):
        image, _, affine = parts.brain_scan(lesion=lesion)
        found[name] = str(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(image, affine), found[name])
    return found


def detector(files, score, neighbours=0):
    return stacked_detector.StackedDetector(
        score,
        parts.PREPARATION,
        parts.NUMBERS,
        dataclasses.replace(parts.PLAIN, point=POINT),
        files=files,
        names=("T1", "FLAIR"),
        neighbours=neighbours,
        batch_size=4,
        facts={"run": "stand-in", "name": "stand-in", "preset": "none", "version": "0"},
    )


def test_contrasts_are_channels_and_the_missing_one_is_said(files):
    batches = []

    def score(number, batch):
        batches.append(batch)
        own = {"image": batch["image"][..., :1], "brain_mask": batch["brain_mask"]}
        return parts.bright(number, own) | {"reconstruction": batch["image"]}

    both = detector(files, score)(files["T1"])
    plain = parts.make_detector(dataclasses.replace(parts.PLAIN, point=POINT))(files["T1"])
    # T1 is prepared as it is alone: brain, registration and scale are its own.
    np.testing.assert_array_equal(both.anomaly, plain.anomaly)
    assert both.anomaly.max() > 0.3
    batch = batches[0]
    assert batch["image"].shape[-1] == 2 and batch["available"].all()
    outside = batch["image"][~batch["brain_mask"]]
    assert (outside == -1).all() and batch["image"][..., 1].max() > -0.5
    batches.clear()
    one = {"FLAIR": files["FLAIR"]}
    result = detector(one, score)(files["FLAIR"])
    assert not batches[0]["available"][:, 0].any() and (batches[0]["image"][..., 0] == -1).all()
    assert not result.anomaly.any()
    assert result.summary["model"]["contrasts"] == {"given": ["FLAIR"], "missing": ["T1"]}
    assert "scored without T1, with FLAIR alone" in result.summary["warnings"]


def test_neighbours_are_the_slices_beside_and_missing_at_the_ends(files):
    batches = []

    def score(number, batch):
        batches.append(batch)
        return parts.bright(number, batch)

    detector({"T1": files["T1"]}, score, neighbours=1)(files["T1"])
    first = batches[0]
    assert first["image"].shape[-1] == 6
    # Channels: own T1 and FLAIR, those of the slice below, those of the slice above.
    np.testing.assert_array_equal(first["image"][0, ..., 4], first["image"][1, ..., 0])
    np.testing.assert_array_equal(first["image"][1, ..., 2], first["image"][0, ..., 0])
    assert first["available"][0].tolist() == [True, False, False, False, True, False]
    assert first["available"][1].tolist() == [True, False, True, False, True, False]


def test_another_grid_is_refused_with_what_to_do(files, tmp_path):
    image = nib.load(files["FLAIR"])
    moved = str(tmp_path / "moved.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 1.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), moved)
    made = detector({"T1": files["T1"], "FLAIR": moved}, parts.bright)
    with pytest.raises(errors.UserError, match=r"moved.*\(FLAIR\) lies on another grid.*Register"):
        made(files["T1"])


def test_what_is_no_list_of_contrasts_is_a_path(tmp_path):
    wanted = {"T1": "a.nii", "FLAIR": "b.nii"}
    assert stacked_detector.parse("T1=a.nii,FLAIR=b.nii") == wanted
    assert stacked_detector.parse("scan.nii.gz") == {}
    odd = tmp_path / "a=b.nii"
    odd.write_text("")
    assert stacked_detector.parse(str(odd)) == {}
    for text in ("T1=a.nii,T1=b.nii", "T1=", "T1=a.nii,b.nii"):
        with pytest.raises(errors.UserError, match=r"accepted: a path, or different contrasts"):
            stacked_detector.parse(text)
    with pytest.raises(errors.UserError, match=r"--input=T1=nothing: no such file"):
        stacked_detector.as_scans({"T1": "nothing"})


def test_scans_must_be_of_the_run_s_contrasts():
    config = tiny_config.get_config()
    with pytest.raises(errors.UserError, match=r"found T1 for a run on T1; accepted: a path alone"):
        model.assemble("runs/a", config, ("T1",))
    config.data.modality = "T1,FLAIR"
    with pytest.raises(errors.UserError, match=r"found PD for a run on .* some of T1, FLAIR"):
        model.assemble("runs/a", config, ("PD",))
    with pytest.raises(errors.UserError, match=r"predict with --input=T1=FILE,FLAIR=FILE"):
        model.assemble("runs/a", config)
