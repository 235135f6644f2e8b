"""What `--checkpoint` means, and the list of what comes with the package."""

import logging
import pathlib

import pytest

from madad_jax.core import errors
from madad_jax.predict import list_models, model_names, package_files
from tests.predict.test_packaged_model import about_of


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two models in the package, and a working directory with nothing in it."""
    home = tmp_path / "shipped"
    for name, ages in (("ixi-t1", [20.0, 82.5]), ("ixi-t2", None)):
        files = dict.fromkeys(package_files.FILES, b"text")
        package_files.write(home / name, about_of(name=name, ages=ages), files)
    (home / "no-model").mkdir()
    monkeypatch.setattr(model_names, "FOLDER", home)
    monkeypatch.setattr(model_names, "DEFAULT", "ixi-t1")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def test_a_name_a_path_and_nothing(shipped):
    assert model_names.locate("") == str(shipped / "ixi-t1")
    assert model_names.locate("ixi-t2") == str(shipped / "ixi-t2")
    for path in ("./ixi-t1", "runs/x", "/no/run", "gs://bucket/run", "..", "~x"):
        assert model_names.locate(path) == path, (
            "a path stays as it was, for the error that names it"
        )
    assert model_names.locate(pathlib.Path("ixi-t1")) == "ixi-t1"


def test_a_plain_word_is_a_name_before_it_is_a_folder(shipped, caplog):
    for name in ("ixi-t1", "mine"):
        pathlib.Path(name).mkdir()
    with caplog.at_level(logging.WARNING):
        assert model_names.locate("mine") == "mine" and not caplog.messages
        assert model_names.locate("ixi-t1") == str(shipped / "ixi-t1")
    assert caplog.messages == [
        "--checkpoint=ixi-t1: the model of the package; the folder here is ./ixi-t1"
    ]


def test_near_misses_are_named(shipped):
    with pytest.raises(
        errors.UserError, match="ixi-t3: no such folder; did you mean 'ixi-t"
    ) as one:
        model_names.locate("ixi-t3")
    assert "ixi-t1, ixi-t2" in str(one.value) and "\n" not in str(one.value)
    with pytest.raises(errors.UserError, match="zebra: no such folder; accepted: a model"):
        model_names.locate("zebra")


def test_without_any_model_it_is_said_what_to_give(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(model_names, "FOLDER", tmp_path / "nothing")
    with pytest.raises(
        errors.UserError, match=r"--checkpoint is missing, and no model .* give the"
    ):
        model_names.locate("")
    with pytest.raises(errors.UserError, match="ixi-t1: no such folder; accepted: the workdir"):
        model_names.locate("ixi-t1")
    assert list_models.run(["models"]) == 0
    assert "No model comes with this version" in capsys.readouterr().out


def test_the_list_says_what_each_is_for(shipped, capsys):
    assert list_models.run(["models"]) == 0
    head, first, second, *rest = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "name" and "levels scored (mm)" in head
    for word in ("ixi-t1", "T1", "-4 to 8", "20 to 82.5", "CC-BY-SA-3.0"):
        assert word in first
    assert "not known" in second
    assert "  AP: 51 [40, 62]" in rest


def test_a_damaged_model_is_named_by_the_list(shipped):
    (shipped / "ixi-t2" / "model.json").write_text("[]")
    with pytest.raises(errors.UserError, match="ixi-t2"):
        list_models.run(["models"])
