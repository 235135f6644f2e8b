"""Whole scans from the config: millimetres, numbers of false positives, the table of lesions."""

import json
import math

import numpy as np
import pytest
from etils import epath

from madad_jax.assembly import data, evaluation, values
from madad_jax.core import errors
from madad_jax.scans import registration
from tests.e2e import tiny_config


@pytest.fixture
def config():
    config = tiny_config.get_config()
    config.eval.protocol = "both"
    return config


@pytest.fixture
def prepared(config, tmp_path):
    """A folder of slices that says how it was made, with one transform."""
    config.data.update(source="png_folder", root=str(tmp_path))
    facts = {"geometry": {"image_size": 64, "level_step": 2.0}, "modality": "T1"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    path = epath.Path(tmp_path) / "transforms" / "a.json"
    registration.Transform(np.eye(4), "none").save(path)
    return tmp_path


def _volumes(config):
    values.check_values(config)
    return evaluation.evaluation_plan(config).options(data.data_plan(config).preparation()).volumes


def test_numbers_reach_the_runner(config, prepared):
    config.eval.false_positives_per_scan = (2, 0.5)
    found = _volumes(config)
    assert found.false_positives == (2.0, 0.5) and found.named is None


@pytest.mark.parametrize("found", [(0.5, 0.0), (-1.0,), (math.nan,), (True,), ("1",)])
def test_numbers_that_cannot_be_are_refused(config, prepared, found):
    config.eval.false_positives_per_scan = found
    with pytest.raises(errors.UserError, match=r"eval\.false_positives_per_scan: found \("):
        _volumes(config)


def test_a_table_beside_the_slices_is_read_and_one_by_name(config, prepared):
    line = "a,tumour,2.0,0,0,0\n"
    (prepared / "lesions.csv").write_text("id,kind,volume_ml,x_mm,y_mm,z_mm\n" + line)
    assert [n.kind for n in _volumes(config).named["a"]] == ["tumour"]
    (prepared / "other.csv").write_text((prepared / "lesions.csv").read_text().replace("tu", "TU"))
    config.eval.lesions = str(prepared / "other.csv")
    assert [n.kind for n in _volumes(config).named["a"]] == ["TUmour"]
    config.eval.lesions = str(prepared / "none.csv")
    with pytest.raises(errors.UserError, match=r"eval\.lesions: found .*none\.csv"):
        _volumes(config)


def test_a_table_needs_slices_that_say_where_they_lie(config, prepared):
    (prepared / "dataset.json").unlink()
    config.eval.spacing_mm = (1.0, 1.0, 1.0)
    assert _volumes(config).named is None
    (prepared / "lesions.csv").write_text("id\n")
    with pytest.raises(errors.UserError, match="do not say where they lie"):
        _volumes(config)
