"""A network is found under any prefix and in any entry; what is left out is told."""

import contextlib
import io
import json

import numpy as np
import pytest

from madad_jax.convert import __main__ as command
from madad_jax.convert import containers, conversion
from madad_jax.core import errors
from tests.convert import cases
from tests.convert import torch_files as files

STATE = cases.vae_state()
OTHER = {key: value + 1 for key, value in STATE.items()}
COUNT = np.array(7, np.int64)
NETWORKS = {"autoencoder": cases.vae_state, "unet": cases.unet_state, "dit": cases.dit_state}


def prefixed(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


def load(tmp_path, saved, **options):
    file = tmp_path / "weights.pt"
    file.write_bytes(files.zip_bytes(saved))
    return containers.load(file, **options)


@pytest.mark.parametrize("kind", sorted(NETWORKS))
@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "ema_model.", "vae.", "autoencoder.", "first_stage_model.", "model."),
        *("_orig_mod.", "module._orig_mod.", "model.net.0.", "anything-at-all."),
    ],
)
def test_any_prefix_goes(tmp_path, kind, prefix):
    state = NETWORKS[kind]()
    weights = load(tmp_path, files.tensors(prefixed(prefix, state) | {"n_averaged": COUNT}))
    assert weights.kind == kind
    cases.same(weights.state, state)
    assert f"prefix '{prefix}' removed" in weights.notes
    assert f"1 tensors outside of '{prefix}' dropped (n_averaged)" in weights.notes


def test_weights_that_are_not_finite_are_said(tmp_path):
    key = "decoder.conv_out.weight"
    weights = load(tmp_path, files.tensors(STATE | {key: STATE[key] * np.float32(np.nan)}))
    assert weights.notes == [f"1 tensors hold NaN or infinity ({key})"]


def test_a_counter_beside_bare_names_is_dropped(tmp_path):
    weights = load(tmp_path, files.tensors(STATE | {"step": COUNT}))
    cases.same(weights.state, STATE)
    assert weights.notes == ["1 counters dropped (step)"]


AVERAGED = {
    "ema-pytorch": files.tensors(
        prefixed("ema_model.")
        | prefixed("online_model.", OTHER)
        | {"initted": COUNT, "step": COUNT}
    ),
    "shadow": {
        "ema": {"shadow": files.tensors(STATE), "decay": 0.9},
        "model": files.tensors(OTHER),
    },
    "state_dict_ema": {"state_dict": files.tensors(OTHER), "state_dict_ema": files.tensors(STATE)},
    "callback": {
        "state_dict": files.tensors(prefixed("vae.", OTHER)),
        "callbacks": {"EMA": {"weights": files.tensors(prefixed("vae."))}},
    },
    "beside bare names": files.tensors(OTHER | prefixed("ema.")),
}


@pytest.mark.parametrize("form", sorted(AVERAGED))
def test_of_two_the_averaged_weights_are_taken(tmp_path, form):
    weights = load(tmp_path, AVERAGED[form])
    cases.same(weights.state, STATE)
    assert any("is taken (averaged weights, EMA)" in note for note in weights.notes)


ENTRIES = {
    "ema_model": {"ema_model": files.tensors(STATE)},
    "ema shadow": {"ema": {"shadow": files.tensors(STATE)}},
    "with optimiser": {
        "model": files.tensors(STATE),
        "optimizer": {"state": {0: {"exp_avg": files.tensor(np.ones(3, np.float32))}}},
        "epoch": 3,
    },
    "lightning": {"state_dict": files.tensors(prefixed("vae.")), "hyper_parameters": {"lr": 1}},
    "numbers as keys": {0: {1: files.tensors(STATE)}, 2: [1]},
}


@pytest.mark.parametrize("form", sorted(ENTRIES))
@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_any_entry_is_opened(tmp_path, form, write):
    file = tmp_path / "weights.pt"
    file.write_bytes(write(ENTRIES[form]))
    cases.same(containers.load(file).state, STATE)


def test_of_two_alike_the_user_chooses(tmp_path):
    saved = files.tensors(prefixed("teacher.") | prefixed("student.", OTHER))
    with pytest.raises(errors.UserError, match=r"under 'student\.' and 'teacher\.'; .*--prefix"):
        load(tmp_path, saved)
    cases.same(load(tmp_path, saved, prefix="student").state, OTHER)
    cases.same(load(tmp_path, saved, prefix="teacher.").state, STATE)
    with pytest.raises(errors.UserError, match=r"--prefix=pupil: .*student\.\* \(\d+\), teacher"):
        load(tmp_path, saved, prefix="pupil")
    bare = files.tensors(STATE | prefixed("ema.", OTHER))
    cases.same(load(tmp_path, bare, prefix="ema").state, OTHER)


def test_two_kinds_in_one_file_need_the_kind(tmp_path):
    saved = files.tensors(prefixed("vae.") | prefixed("unet.", cases.unet_state()))
    with pytest.raises(errors.UserError, match=r"unet under 'unet\.'; autoencoder under 'vae\.'"):
        load(tmp_path, saved)
    cases.same(load(tmp_path, saved, kind="unet").state, cases.unet_state())
    cases.same(load(tmp_path, saved, kind="autoencoder").state, STATE)


def test_names_that_fit_nothing_are_told_with_what_is_expected(tmp_path):
    saved = {f"net.layer{i}.weight": np.ones(2, np.float32) for i in range(3)} | {"step": COUNT}
    for options in ({"kind": "autoencoder"}, {}):
        with pytest.raises(errors.UserError) as caught:
            load(tmp_path, files.tensors(saved), **options)
        message = str(caught.value)
        assert "net.* (3), step" in message and "encoder.conv_in.weight" in message
        assert " a autoencoder" not in message and "\n" not in message
    long = {f"{i}{'x' * 250}.w": np.ones(2, np.float32) for i in range(500)}
    with pytest.raises(errors.UserError, match="and 490 more") as caught:
        load(tmp_path, files.tensors(long), kind="unet")
    assert len(str(caught.value)) < 1500


def folder_of(tmp_path, names, state=STATE):
    folder = tmp_path / "given"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files.zip_bytes(files.tensors(state)))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_pytorch_model.bin"],
        ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"],
        ["model.safetensors", "pytorch_model.bin"],
        ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"],
        ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        ["vae/a.safetensors", "vae/a.fp16.safetensors", "vae/a.non_ema.safetensors"],
        ["vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"],
    ],
)
def test_folders_of_diffusers_and_accelerate(tmp_path, names):
    folder = folder_of(tmp_path, names)
    cases.same(containers.load(folder, "autoencoder").state, STATE)


def test_groups_of_a_folder_come_from_its_config(tmp_path):
    folder = folder_of(tmp_path, ["diffusion_pytorch_model.bin"])
    (folder / "config.json").write_text(json.dumps({"norm_num_groups": 16}))
    assert containers.load(folder).settings == {"num_groups": 16}
    (folder / "config.json").write_text("[1]")
    assert containers.load(folder).settings == {}


def test_folders_that_do_not_say_what_to_read(tmp_path):
    with pytest.raises(errors.UserError, match="a folder without weights"):
        containers.load(tmp_path)
    folder = folder_of(tmp_path, ["a.pt", "b.pt"])
    with pytest.raises(errors.UserError, match=r"several files of weights \(a.pt, b.pt\)"):
        containers.load(folder)
    folder = folder_of(tmp_path / "best", ["a.pt", "a.best.pt"])
    with pytest.raises(errors.UserError, match=r"several files of weights \(a.best.pt, a.pt\)"):
        containers.load(folder)
    pipeline = folder_of(tmp_path / "other", ["vae/model.bin", "unet/model.bin"])
    with pytest.raises(errors.UserError, match=r"one of its parts: --in=.*unet, --in=.*vae"):
        containers.load(pipeline)


def sharded(tmp_path, table=None):
    folder = tmp_path / "shards"
    folder.mkdir(parents=True)
    keys, names = sorted(STATE), ("model-1.bin", "model-2.bin")
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        content = files.zip_bytes(files.tensors({key: STATE[key] for key in part}))
        (folder / name).write_bytes(content)
    table = table or {key: names[i % 2] for i, key in enumerate(keys)}
    (folder / "model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def test_shards_are_read_together(tmp_path):
    folder = sharded(tmp_path)
    cases.same(containers.load(folder).state, STATE)
    cases.same(containers.load(folder / "model.bin.index.json").state, STATE)


@pytest.mark.parametrize(
    "name", ["../given.bin", "/given.bin", "a/given.bin", "a\\given.bin", "", "..", "gone.bin", 3]
)
def test_an_index_opens_files_of_its_folder_alone(tmp_path, name):
    (tmp_path / "given.bin").write_bytes(files.zip_bytes(files.tensors(STATE)))
    folder = sharded(tmp_path, {"a": name})
    with pytest.raises(errors.UserError, match="names the file"):
        containers.load(folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {}}', ""])
def test_an_index_without_a_table_is_refused(tmp_path, content):
    folder = sharded(tmp_path)
    (folder / "model.bin.index.json").write_text(content)
    with pytest.raises(errors.UserError):
        containers.load(folder)


def notes_of(kind, state, **given):
    return "\n".join(conversion.convert(kind, state, **given).notes)


def test_a_guess_is_called_one():
    assert "guessed: num_heads=4 (" in notes_of("unet", cases.unet_state())
    assert "--num_heads=N sets it" in notes_of("unet", cases.unet_state())
    assert "num_heads" not in notes_of("unet", cases.unet_state(), num_heads=4)
    assert "guessed: num_heads=1 (" in notes_of("dit", cases.dit_state())
    assert "num_heads" not in notes_of("dit", cases.dit_state(), num_heads=1)
    assert "guessed: num_groups=32 (" in notes_of("autoencoder", STATE)
    assert "guessed" not in notes_of("autoencoder", STATE, num_groups=32)


def test_the_guess_is_printed(tmp_path):
    file = tmp_path / "unet.pt"
    file.write_bytes(files.zip_bytes(files.tensors(cases.unet_state())))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert command.run(["convert", f"--in={file}", f"--out={tmp_path / 'run'}"]) == 0
    assert "  guessed: num_heads=4 (" in printed.getvalue()
