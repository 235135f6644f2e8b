import dataclasses

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.input import pipeline
from madad_jax.data.sources import labelled
from madad_jax.data.sources import record as record_lib
from tests.data import test_cohort


def _cohort(split):
    return test_cohort._open(split, slices=4, train_lesion=2)


def test_slices_that_show_a_lesion_are_the_abnormal_ones():
    healthy, abnormal = _cohort("train"), _cohort("train_lesion")
    both = labelled.Labelled(healthy, abnormal)
    assert isinstance(both, record_lib.Source) and len(both) == len(both.records)
    sick = [record for record in abnormal.records if record.lesion_kind]
    assert both.records == [*healthy.records, *sick] and 0 < len(sick) < len(abnormal)
    labels = [bool(both[i]["unhealthy"]) for i in range(len(both))]
    assert labels == [False] * len(healthy) + [True] * len(sick)
    for i in range(len(healthy), len(both)):
        assert both[i]["segmentation"].any()
    assert both.fingerprint() not in (healthy.fingerprint(), abnormal.fingerprint())
    assert f"and {len(sick)} slices labelled abnormal" in both.describe()


def test_where_nobody_marked_a_lesion_the_split_alone_is_the_label():
    abnormal = _cohort("train_lesion")
    abnormal.records = [dataclasses.replace(r, lesion_kind="") for r in abnormal.records]
    both = labelled.Labelled(_cohort("train"), abnormal)
    assert sum(bool(both[i]["unhealthy"]) for i in range(len(both))) == len(abnormal)
    abnormal.records, abnormal._places = [], []
    with pytest.raises(errors.UserError, match=r"found no abnormal slice .* in 'train_lesion'"):
        labelled.Labelled(_cohort("train"), abnormal)


def test_training_batches_have_the_label_and_no_segmentation():
    both = labelled.Labelled(_cohort("train"), _cohort("train_lesion"))
    batches = pipeline.train_iterator(both, batch_size=len(both), seed=0, augment={})
    batch = next(batches)
    assert set(batch) == {"image", "brain_mask", "unhealthy"}
    count = sum(bool(both[i]["unhealthy"]) for i in range(len(both)))
    assert batch["unhealthy"].dtype == bool and batch["unhealthy"].sum() == count
    val = labelled.Labelled(_cohort("val"))
    (seen,) = pipeline.eval_batches(val, batch_size=len(val))
    assert not np.any(seen["unhealthy"])
