"""The bank of a training: at its size, kept by the run, and never of people that judge it."""

import hashlib

import numpy as np
import pytest

from configs.baselines import dae, drawn_unet
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors
from madad_jax.data.sources import record
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import lesion_bank, stage_inputs, workdir
from madad_jax.synthesis import learned


class Slices(list):
    """Records of slices of these people."""

    @property
    def records(self):
        return [record.Record(f"{who}-slice_001", who, 1, "T1") for who in self]


class Inputs(inputs_lib.Inputs):
    def __init__(self, **people):
        self.people = people

    def source(self, split):
        return Slices(self.people.get(split, ()))

    def healthy_source(self, name):
        return self.source(f"{name}_healthy")


def bank(count=3, width=8, side=64, level=0.5):
    change = np.zeros((count, width, width), np.float32)
    change[:, 2:6, 2:6] = -0.5
    mask = (change != 0).astype(np.float32)
    level = np.full(count, level, np.float32)
    return {"change": change, "mask": mask, "level": level, "side": np.int32(side)}


def write(path, modality="T1", **how):
    lesion_bank.write(path, bank(**how), {"modality": modality, "subjects": ["ms19"]})
    return path


def parts(path="", module=drawn_unet, size=32, **changes):
    config = module.get_config()
    config.data.image_size = size
    config.lesions.bank = str(path)
    config.update_from_flattened_dict(changes)
    return parts_lib.assemble(config)


def test_a_training_reads_it_at_its_own_size_and_keeps_it(tmp_path):
    path = write(tmp_path / "bank.npz")
    made, folder = parts(path), workdir.Workdir(tmp_path / "run")
    found = lesion_bank.prepare(made, folder)[learned.NAME]
    expected = lesion_bank.fit(bank(), 32)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    # Half the side: a square of 4 pixels is one of 2.
    assert found["mask"].sum((1, 2)).tolist() == [4, 4, 4]
    np.testing.assert_allclose(found["change"][0][found["mask"][0] > 0], -0.5, atol=1e-6)
    # Another bank at the same place changes a run that has no weights yet, and no other.
    write(path, level=2.0)
    assert lesion_bank.prepare(made, folder)[learned.NAME]["level"][0] == 2.0
    (folder.checkpoints("denoiser") / "5").mkdir(parents=True)
    write(path, level=3.0)
    assert lesion_bank.prepare(made, folder)[learned.NAME]["level"][0] == 2.0
    path.unlink()
    assert lesion_bank.prepare(made, folder)[learned.NAME]["level"][0] == 2.0
    own = folder.folder / "denoiser" / lesion_bank.FILE
    noted = stage_inputs._noted(folder, "denoiser", stage_inputs.MEASURED)[learned.NAME]
    assert noted["digest"] == hashlib.sha256(own.read_bytes()).hexdigest()
    write(own)
    with pytest.raises(errors.UserError, match="not the lesions that denoiser was trained with"):
        lesion_bank.prepare(made, folder)


def test_a_run_without_a_bank_has_none(tmp_path):
    made, folder = parts(), workdir.Workdir(tmp_path / "run")
    assert lesion_bank.prepare(made, folder) == {} == lesion_bank.abstract(made)
    assert not folder.folder.exists()
    lesion_bank.check(made, Inputs())
    lesion_bank.check_sets(made, folder, Inputs(test=["ms19"]))


@pytest.mark.parametrize("split", ["val", "test", "test_healthy"])
def test_people_of_the_examples_judge_no_run(tmp_path, split):
    made, folder = parts(write(tmp_path / "bank.npz")), workdir.Workdir(tmp_path / "run")
    lesion_bank.check(made, Inputs(val=["a"], test=["ms07"]))
    text = r"subject 'ms19' is in both 'the examples of lesions\.bank' and '" + split.split("_")[0]
    with pytest.raises(errors.UserError, match=text):
        lesion_bank.check(made, Inputs(**{split: ["ms07", "MS19"]}))
    # Nor are they scored by a run that learned from them, wherever its bank went.
    lesion_bank.prepare(made, folder)
    with pytest.raises(errors.UserError, match=text):
        lesion_bank.check_sets(parts(), folder, Inputs(**{split: ["ms19"]}))


def test_a_bank_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match=r"found lesions of FLAIR, accepted: of T1"):
        lesion_bank.check(parts(write(tmp_path / "a.npz", modality="FLAIR")), Inputs())
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(errors.UserError, match="a bank of lesions"):
        lesion_bank.check(parts(tmp_path / "b.npz"), Inputs())
    with pytest.raises(errors.UserError, match="cannot be read"):
        lesion_bank.check(parts(tmp_path / "c.npz"), Inputs())
    learns = {"synthesis.kind": "learned", "synthesis.share": 0.5}
    with pytest.raises(errors.UserError, match=r"found 'learned', but lesions\.bank is empty"):
        lesion_bank.check(parts(module=dae, **learns), Inputs())
