"""Tables of strangers: bounded expressions, plain YAML, and people who stand in one split."""

import pytest

from madad_jax.core import errors
from madad_jax.prepare import cohorts, splits, yaml_file


def table(**values):
    return cohorts.from_dict({"title": "x", "images": {"T1": "{id}_T1w{nii}"}} | values, "x.yaml")


def find(root, names, **values):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return cohorts.find(table(**values), root, ("T1",))


SESSIONS = [f"sub-A0{k}_ses-0{s}_T1w.nii.gz" for k in (1, 2) for s in (1, 2, 3)]


def test_a_person_pattern_that_is_not_in_an_id_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match=r"person: 'sub-\\d\+' is not in 'sub-A01_ses-01'"):
        find(tmp_path, SESSIONS, person=r"sub-\d+")


@pytest.mark.parametrize("person", [r"\d*", "SUB-[A-Z0-9]+", "sub-A01"])
def test_a_person_pattern_that_misses_one_id_is_refused(tmp_path, person):
    with pytest.raises(errors.UserError, match="is not in 'sub-A0"):
        find(tmp_path, SESSIONS, person=person)


def test_sessions_of_a_person_stay_together(tmp_path):
    found = find(tmp_path, SESSIONS, person="sub-[A-Za-z0-9]+")
    assert {item.subject for item in found.items} == {"sub-A01", "sub-A02"}
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    placed, _ = splits.assign(found.items, fractions=shares, seed=0)
    assert len({(item.subject, item.split) for item in placed}) == 2


def test_sessions_without_a_person_pattern_are_refused(tmp_path):
    with pytest.raises(errors.UserError, match=r"person is missing: .*give person: 'sub-"):
        find(tmp_path, SESSIONS)
    with pytest.raises(errors.UserError, match="person is missing"):
        find(tmp_path / "b", ["sub-1/ses-1_T1w.nii", "sub-1/ses-2_T1w.nii"], id="[^_]+")


def test_letter_case_is_no_other_person(tmp_path):
    names = ["sub-a1_ses-1_T1w.nii", "Sub-A1_ses-2_T1w.nii"]
    found = find(tmp_path, names, person="(?i:sub-[a-z0-9]+)")
    assert len({item.subject for item in found.items}) == 1


def test_suffixes_in_capitals_are_found(tmp_path):
    found = find(tmp_path, ["a_T1w.NII.GZ", "b_T1w.Nii"])
    assert [item.scan for item in found.items] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("IXI013-HH-1212.nii.gz", "found 'IXI013-HH-1212.nii.gz' and 0 more, nearest to"),
        ("IXI013-HH-1212-t1.nii.gz", "which '**/{id}-T1{nii}' fits but for its case"),
        ("readme.txt", "found 'readme.txt' and 0 more"),
        ("x/", "found no file at all"),
    ],
)
def test_a_cohort_that_is_not_found_names_what_is_there(tmp_path, name, said):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(errors.UserError) as error:
        cohorts.find(cohorts.load("ixi"), tmp_path, ("T1",))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a+)+b", "repeat within a repeat"),
        ("([a-z]+_?)*", "repeat within a repeat"),
        ("(?:[a-z_]+_)*", "repeat within a repeat"),
        (r"(?:[^-]+_)+", "repeat within a repeat"),
        (r"(?i)(?:[K]+k)+", "repeat within a repeat"),
        (r"(?:(?:\d+\.)+)+x", "repeat within a repeat"),
        ("(?:a{1,99}){2,9}", "repeat within a repeat"),
        ("(?:ab|a|b)*c", "alternatives"),
        (".*.*.*.*x", "4 open repeats"),
        (r"(?P<x>a)(?P=x)", "reference"),
        ("a" * 201, "201 characters"),
        (["a"], "in quotes"),
        (7, "in quotes"),
        ("(", "no regular expression"),
    ],
)
@pytest.mark.parametrize("key", ["id", "person"])
def test_expressions_past_the_bounds_are_refused(key, text, said):
    with pytest.raises(errors.UserError, match=f"x.yaml: {key}.*{said}"):
        table(**{key: text})


@pytest.mark.parametrize("name", [name for name in cohorts.NAMES if name != "folder"])
def test_our_own_tables_are_within_the_bounds(name):
    assert cohorts.load(name).images


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"images": {False: "{id}"}}, "YAML reads False there; put it in quotes"),
        ({"images": {"T1": 5}}, "images.T1.*contains {id}"),
        ({"images": {"T1": ""}}, "images.T1.*accepted: a pattern"),
        ({"images": {"T1": {"a": 1}}}, "images.T1"),
        ({"images": ["{id}"]}, "images: accepted: modality: pattern"),
        ({"images": {"T1": "{id}" + "*x" * 9}}, "at most 8"),
        ({"title": 3}, "title: found 3, accepted: text"),
        ({"licence": ["a"]}, "licence"),
        ({"options": "affine"}, "options.*a mapping"),
        ({"options": {"registration": 5}}, "options.registration.*a word"),
        ({"options": {"shift": "left"}}, "options.shift.*three numbers"),
        ({"options": {"shift": [0, 0]}}, "options.shift.*three numbers"),
        ({"options": {"shift": [0, 0, float("nan")]}}, "options.shift.*three numbers"),
        ({"fractions": [0.8, 0.1, 0.1]}, "fractions.*a mapping"),
        ({"fractions": {"train": "most"}}, "fractions.*shares of"),
        ({"fractions": {"train": float("nan"), "test": 0.5}}, "fractions.*shares of"),
        ({"fractions": {"train": 0.5}}, "add up to 1"),
        ({"labels": {"a": 1}}, "labels.*numbers above 0"),
        ({"person": {"a": 1}}, "person.*in quotes"),
    ],
)
def test_values_of_another_type_are_named(values, said):
    with pytest.raises(errors.UserError, match=said):
        table(**values)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [*x]\n", "alias .* stands within"),
        ("a: {b: &x {c: *x}}\n", "alias .* stands within"),
        (BOMB, "more than 10000 values, aliases"),
        ("images: {T1: a, T2: b, T1: c}\n", "the key 'T1' stands twice"),
        ("[" * 5000, "is no YAML"),
        ("a: 2024-13-45\n", "is no YAML"),
        ("a: 0b\n? [1]\n: 2\n", "is no YAML"),
        ("a: !!python/name:os.system x\n", "is no YAML"),
        ("\x01", "is no YAML"),
    ],
)
def test_yaml_that_is_no_plain_table(tmp_path, text, said):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=said) as error:
        yaml_file.read(path)
    assert len(str(error.value).splitlines()) == 1


def test_anchors_merges_and_aliases_are_read(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "title: x\nid: &id 'sub-[^/]+'\nperson: *id\noptions: &o {registration: affine}\n"
        "images: {T1: '{id}/a{nii}'}\nfractions: &f {train: 0.5, val: 0.5}\n"
    )
    assert cohorts.load("folder", str(path)).person == "sub-[^/]+"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: {<<: [*a], x: 4}\nd: [*a, *a]\n")
    read = yaml_file.read(path)
    assert read["b"] == {"x": 1, "y": 3} and read["c"] == {"x": 4, "y": 2}
    assert read["d"] == [{"x": 1, "y": 2}] * 2


PEOPLE = [
    ("(?i)SUB-[0-9]+", "sub-01_ses-2", "sub-01"),
    ("(?x) sub - [0-9]+", "sub-01_ses-2", "sub-01"),
    ("[^-]+-[^-]+-[^-]+-[^-]+", "BraTS-GLI-00005-100", "BraTS-GLI-00005-100"),
    ("([^-]+)-([^-]+)-([^-]+)-([^-]+)-", "A-B-C-D-E", "A-B-C-D-"),
    (r"(?:\d+\.)+\d+", "s1.2.840.10", "1.2.840.10"),
    (r"(?:\d{1,3}\.){3}\d{1,3}", "10.0.0.12", "10.0.0.12"),
    (r"(?:[^_/]*_){2}[^_/]*", "a_b_c_d", "a_b_c"),
    (r"(?<=sub-)\d+(?=_)", "sub-007_x", "007"),
    (r"(?:sub|patient)-?\d+|P\d+", "P12", "P12"),
    (r"sub-[^_]+?(?=_ses|$)", "sub-a1_ses-2", "sub-a1"),
]


@pytest.mark.parametrize(("text", "scan", "person"), PEOPLE)
def test_expressions_as_people_write_them(tmp_path, text, scan, person):
    assert [item.subject for item in find(tmp_path, [f"{scan}_T1w.nii"], person=text).items] == [
        person
    ]


def test_flags_before_an_id_stay_within_it(tmp_path):
    names = ["SUB-1_T1w.nii.gz", "sub-2_T1w.nii.gz", "sub-3_t1w.nii.gz"]
    found = find(tmp_path, names, id="(?i)sub-[0-9]+")
    assert [item.scan for item in found.items] == ["SUB-1", "sub-2"]


def test_yaml_that_is_too_large(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("#" * (1 << 19))
    with pytest.raises(errors.UserError, match="accepted: YAML of at most"):
        yaml_file.read(path)
