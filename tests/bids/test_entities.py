"""Names of BIDS: taken apart, and made."""

import pytest

from madad_jax.bids import entities


@pytest.mark.parametrize(
    ("stem", "contrast", "folder"),
    [
        ("sub-01_T1w", "T1", "sub-01/anat"),
        ("sub-01_ses-2_acq-fast_run-1_T1w", "T1", "sub-01/ses-2/anat"),
        ("sub-01_ce-gadolinium_T1w", "T1CE", "sub-01/anat"),
        ("sub-01_T2w", "T2", "sub-01/anat"),
        ("sub-01_FLAIR", "FLAIR", "sub-01/anat"),
        ("sub-01_PDw", "PD", "sub-01/anat"),
        ("sub-01_T2starw", "", "sub-01/anat"),
    ],
)
def test_a_name_says_contrast_and_folder(stem, contrast, folder):
    name = entities.parse(stem)
    assert str(name) == stem and entities.is_raw(name)
    assert (name.contrast, name.folder) == (contrast, folder)


@pytest.mark.parametrize(
    "stem", ["T1w", "sub-01", "sub-01_sub-02_T1w", "ses-1_T1w", "sub-01_T1w_x", "sub-a b_T1w",
             "sub-01_../x_T1w", "sub-<i>_T1w", ""]
)  # fmt: skip
def test_what_is_no_name(stem):
    assert entities.parse(stem) is None


@pytest.mark.parametrize(
    "stem", ["sub-01_desc-brain_mask", "sub-01_run-1_acq-x_T1w", "sub-01_space-MNI_T1w"]
)
def test_derivatives_and_disorder_are_no_raw_images(stem):
    assert not entities.is_raw(entities.parse(stem))


def test_what_is_made_keeps_entities_in_the_order_of_derivatives():
    name = entities.parse("sub-01_ses-1_acq-x_ce-gd_rec-a_run-1_echo-1_part-mag_chunk-1_T1w")
    made = name.derive("mask", space="MNI152NLin2009aSym", desc="anomaly")
    assert str(made) == (
        "sub-01_ses-1_acq-x_ce-gd_rec-a_run-1_echo-1_part-mag_space-MNI152NLin2009aSym_chunk-1_"
        "desc-anomaly_mask"
    )
