"""What was checked once is not traced again; what could change the answer undoes it."""

import pytest

from configs import default
from madad_jax.assembly import parts
from madad_jax.experiment import preflight, workdir


def _parts(**changes):
    config = default.get_config()
    config.update_from_flattened_dict(changes)
    return parts.assemble(config)


def test_a_checked_config_is_known_in_its_folder_alone(tmp_path):
    assert not preflight.passed(_parts(), workdir.Workdir(tmp_path))
    preflight.remember(_parts(), workdir.Workdir(tmp_path))
    assert preflight.passed(_parts(), workdir.Workdir(tmp_path))
    assert not preflight.passed(_parts(seed=1), workdir.Workdir(tmp_path))
    assert not preflight.passed(_parts(), workdir.Workdir(tmp_path / "other"))
    (tmp_path / "checked.json").write_bytes(b"\xff damaged")
    assert not preflight.passed(_parts(), workdir.Workdir(tmp_path))


@pytest.mark.parametrize("what", ["code", "packages"])
def test_other_code_or_packages_are_checked_anew(what, tmp_path, monkeypatch):
    preflight.remember(_parts(), workdir.Workdir(tmp_path))
    if what == "packages":
        monkeypatch.setattr(preflight.startup, "package_version", lambda name: "0")
    else:
        package = tmp_path / "package" / "experiment"
        package.mkdir(parents=True)
        (package / "preflight.py").write_text("another\n")
        monkeypatch.setattr(preflight, "__file__", str(package / "preflight.py"))
    assert not preflight.passed(_parts(), workdir.Workdir(tmp_path))
