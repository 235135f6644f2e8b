"""`madad-jax draw-lesions` as a command, without a network: copies of the examples."""

import json

import pytest

from madad_jax.experiment import lesion_bank
from madad_jax.predict import draw_lesions
from tests.experiment import test_drawn_lesions as folders


def run(root, *more):
    words = [
        *("draw-lesions", f"--examples={root / 'ms'}", f"--input={root / 'healthy'}"),
        *(f"--output={root / 'out'}", "--appearance=copy", "--modality=T1", *more),
    ]
    return draw_lesions.run(words)


def test_it_writes_a_set_its_provenance_and_a_bank(tmp_path, capsys):
    root = folders.make_folders(tmp_path)
    assert run(root, "--slices=4", "--split=train") == 0
    said = capsys.readouterr().out
    assert "4 slices with" in said and "likest example: NCC" in said
    about = json.loads((root / "out/draw_lesions.json").read_text())
    made = about["made_from"]
    assert made["settings"]["seed"] == 0 and made["settings"]["appearance"] == "copy"
    assert made["examples"]["ms"]["subjects"] == ["sick"]
    assert len(made["examples"]["ms"]["files"]) == 9
    assert about["figures"]["slices"] == 4
    facts, bank = lesion_bank.read(root / "out/lesion_bank.npz")
    assert facts == {"modality": "T1", "subjects": ["sick"]} and len(bank["level"]) >= 4
    # Again: nothing is drawn anew, and the same is said.
    times = {p: p.stat().st_mtime_ns for p in (root / "out/train").iterdir()}
    assert run(root, "--slices=4", "--split=train") == 0
    assert capsys.readouterr().out == said
    assert times == {p: p.stat().st_mtime_ns for p in (root / "out/train").iterdir()}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--slices=3", "another slices"),
        ("--modality=", "--modality is missing"),
        ("--panels=-1", "--panels: found -1"),
        ("--appearance=drawn", "--appearance: found 'drawn'"),
        ("--input=nowhere", "--input=nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, word, text, capsys):
    root = folders.make_folders(tmp_path)
    if word == "--slices=3":
        run(root, "--slices=2")
    with pytest.raises(draw_lesions.errors.UserError, match=text):
        run(root, word)
