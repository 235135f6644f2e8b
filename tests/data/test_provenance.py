import json

import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.data.cohort import cohort


def _of(tmp_path, size=64):
    return provenance.describe_source(
        name="png_folder", root=str(tmp_path), modality="T2", image_size=size, cohort=None
    )


def test_of_a_prepared_folder_at_another_size(tmp_path):
    assert _of(tmp_path) is None
    geometry = {"image_size": 256, "field_of_view": 200.0, "left": "right"}
    options = {"registration": "none", "intensity": "zscore", "n4": True, "bits": 16}
    (tmp_path / "dataset.json").write_text(json.dumps({"geometry": geometry, "options": options}))
    found = _of(tmp_path)
    assert found.geometry.image_size == 64 and found.geometry.field_of_view == 200.0
    assert (found.registration, found.intensity, found.n4) == ("none", "zscore", True)
    assert found.modality == "T2" and found.geometry.left == "right"


def test_of_the_embedded_cohort_is_where_it_draws():
    sizes = {"slices": 3, "slice_spacing": 5.0, "field_of_view": 192.0}
    found = provenance.describe_source(
        name="cohort", root="", modality="T1", image_size=96, cohort=sizes
    )
    assert [found.geometry.level(k) for k in range(3)] == [13.0, 18.0, 23.0]
    assert found.geometry.level(1) == cohort.MIDDLE_LEVEL and found.numbers == (0, 2, 1)
    assert found.geometry.pixel == 2.0


def test_comes_back_from_its_file(tmp_path):
    made = provenance.describe_source(
        name="cohort", root="", modality="T1", image_size=96, cohort={"slices": 3}
    )
    path = epath.Path(tmp_path / "preparation.json")
    path.write_text(json.dumps(made.to_dict()))
    assert provenance.read(path) == made


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"geometry": 3}', '{"geometry": {"size": 3}, "modality": "T1"}']
)
def test_damage_names_the_file(tmp_path, text):
    (tmp_path / "preparation.json").write_text(text)
    with pytest.raises(errors.UserError, match=r"preparation\.json|geometry"):
        provenance.read(tmp_path / "preparation.json")


_GOOD = {"geometry": {"image_size": 64}, "modality": "T1", "numbers": [0, 9, 3]}


def test_numbers_come_back(tmp_path):
    (tmp_path / "preparation.json").write_text(json.dumps(_GOOD))
    assert provenance.read(tmp_path / "preparation.json").numbers == (0, 9, 3)


@pytest.mark.parametrize(
    "changes,word",
    [
        ({"numbers": [0, 9, 0]}, "numbers"),
        ({"numbers": [0, 9, -1]}, "numbers"),
        ({"numbers": [9, 0, 1]}, "numbers"),
        ({"numbers": [0, 10**9, 1]}, "numbers"),
        ({"numbers": [0, 99999, 1]}, "numbers"),
        ({"numbers": [0, 10**300, 10**299]}, "numbers"),
        ({"numbers": [0.5, 9, 1]}, "numbers"),
        ({"numbers": [True, 9, 1]}, "numbers"),
        ({"numbers": [1, 2]}, "numbers"),
        ({"numbers": list(range(100000))}, "numbers"),
        ({"numbers": "0:9:1"}, "numbers"),
        ({"numbers": 3}, "numbers"),
        ({"modality": 3}, "modality"),
        ({"modality": ["T1"]}, "modality"),
        ({"modality": "T9", "intensity": "cohort"}, "modality: found 'T9', accepted: T1"),
        ({"intensity": "best"}, "intensity"),
        ({"intensity": []}, "intensity"),
        ({"registration": 3}, "registration"),
        ({"brain_mask": {}}, "brain_mask"),
        ({"interpolation": None}, "interpolation"),
        ({"n4": "yes"}, "n4"),
        ({"low": "1"}, "low"),
        ({"low": float("nan")}, "low"),
        ({"high": 1e400}, "high"),
        ({"least_brain": []}, "least_brain"),
        ({"shift": [0, 0, 1e30]}, "shift"),
        ({"shift": [0, 0]}, "shift"),
        ({"shift": ["a", 0, 0]}, "shift"),
        ({"geometry": {"image_size": 10**8}}, "image_size"),
        ({"geometry": {"image_size": 1e400}}, "preparation"),
        ({"geometry": []}, "geometry"),
        ({"options": 3}, "preparation"),
    ],
)
def test_values_that_no_preparation_has_are_refused_in_one_line(tmp_path, changes, word):
    (tmp_path / "preparation.json").write_text(json.dumps(_GOOD | changes))
    with pytest.raises(errors.UserError, match=word) as error:
        provenance.read(tmp_path / "preparation.json")
    said = str(error.value)
    assert "preparation.json" in said and len(said) < 400 and "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": [0, 5, 0]},
        {"numbers": [5, 0, 1]},
        {"numbers": [0, 10**9, 1]},
        {"numbers": [0, float("inf"), 1]},
        {"numbers": "abc"},
        {"modality": 7},
        {"modality": ""},
        {"shift": [1]},
        {"options": [1]},
        {"geometry": []},
    ],
)
def test_a_preparation_that_none_made_is_refused(tmp_path, change):
    made = provenance.describe_source(
        name="cohort", root="", modality="T1", image_size=32, cohort=None
    )
    path = tmp_path / "preparation.json"
    path.write_text(json.dumps(made.to_dict() | change))
    with pytest.raises(errors.UserError, match=r"preparation\.json"):
        provenance.read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{", "\ud800"])
def test_a_preparation_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "preparation.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(errors.UserError, match=r"preparation\.json"):
        provenance.read(path)
