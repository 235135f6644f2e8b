"""Every form in which weights are passed around gives the same state dict."""

import json
from collections import OrderedDict

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from madad_jax.convert import autoencoder_kl_weights, containers, conversion, diffusers_keys
from madad_jax.core import errors
from tests.convert import cases
from tests.convert import torch_files as files
from tests.models import official


def load(tmp_path, data, kind="", name="weights.pt"):
    file = tmp_path / name
    file.write_bytes(data)
    return containers.load(file, kind)


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


MARK = "input_blocks.0.0.weight"  # what a U-Net is known by
NAMESPACE = files.Object("argparse.Namespace", model="UNet_XS", epochs=200)


def forms(state):
    """{form: object to save} of one state dict."""
    tensors = files.tensors(state)
    module = files.module(files.nested(state))
    return {
        "plain": tensors,
        "model and args": {"model": tensors, "args": NAMESPACE},
        "state_dict": {"state_dict": tensors, "epoch": 3, "numpy": NUMPY_SCALAR},
        "module": module,
        "module under model": {"model": module, "args": NAMESPACE},
        "parallel": {"model": files.tensors(prefixed("module.", state))},
        "compiled and parallel": files.tensors(prefixed("module._orig_mod.", state)),
        "averaged": {"ema": tensors, "model": {k: files.tensor(v + 1) for k, v in state.items()}},
        "counted": OrderedDict(tensors, num_updates=7),
    }


NUMPY_SCALAR = files.Call(
    "numpy.core.multiarray.scalar",
    files.Call("numpy.dtype", "f8", False, True),
    files.Call("_codecs.encode", "abc", "latin1"),
)


@pytest.mark.parametrize("form", sorted(forms({})))
@pytest.mark.parametrize("write", [files.zip_bytes, files.legacy_bytes])
def test_every_form_gives_the_same_state_dict(tmp_path, form, write):
    state = cases.unet_state()
    weights = load(tmp_path, write(forms(state)[form]))
    assert weights.kind == "unet"
    cases.same(weights.state, state)


def test_ldm_checkpoints_keep_only_the_first_stage(tmp_path):
    state = cases.vae_state()
    whole = prefixed("first_stage_model.", state)
    whole["first_stage_model.loss.discriminator.main.0.weight"] = np.zeros(3, np.float32)
    whole["model.diffusion_model.input_blocks.0.0.weight"] = np.zeros(3, np.float32)
    whole["cond_stage_model.transformer.weight"] = np.zeros(3, np.float32)
    saved = {"state_dict": files.tensors(whole), "callbacks": {files.Name("a.Callback"): {}}}
    weights = load(tmp_path, files.zip_bytes(saved))
    assert weights.kind == "autoencoder"
    cases.same(weights.state, state)
    notes = "\n".join(weights.notes)
    assert "2 tensors outside of 'state_dict.first_stage_model.' dropped" in notes
    assert "1 tensors of training alone dropped" in notes


def test_a_pickled_autoencoder_opens_and_tells_its_groups(tmp_path):
    state = cases.vae_state()
    module = files.module(
        files.nested(state),
        kind="ldm.models.autoencoder.AutoencoderKL",
        hparams=files.Object("omegaconf.dictconfig.DictConfig", content=None),
        loss_fn=files.Name("ldm.modules.losses.contperceptual.hinge_d_loss"),
    )
    children = module.attributes["_modules"]
    children["encoder"].attributes["_modules"]["norm_out"].kind = files.Name(
        "torch.nn.modules.normalization.GroupNorm"
    )
    children["encoder"].attributes["_modules"]["norm_out"].attributes["num_groups"] = 16
    children["loss"] = files.module({"logvar": np.zeros(1, np.float32)})
    weights = load(tmp_path, files.legacy_bytes(module))
    cases.same(weights.state, state)
    assert weights.settings == {"num_groups": 16}
    assert "ldm.models.autoencoder.AutoencoderKL" in weights.notes[0]


def test_buffers_that_are_not_kept_are_left_out(tmp_path):
    module = files.module(files.nested({MARK: np.ones(2, np.float32)}))
    module.attributes["_buffers"]["kept"] = files.tensor(np.ones(1, np.float32))
    module.attributes["_buffers"]["derived"] = files.tensor(np.ones(1, np.float32))
    module.attributes["_buffers"]["none"] = None
    module.attributes["_non_persistent_buffers_set"] = files.Call("__builtin__.set", ["derived"])
    weights = load(tmp_path, files.zip_bytes(module), kind="unet")
    assert sorted(weights.state) == [MARK, "kept"]


def test_a_module_inside_of_itself_is_refused(tmp_path):
    tree = files.module({"w": np.ones(2, np.float32)})
    children = tree.attributes["_modules"]
    for _ in range(100):
        inner = files.module({})
        children["a"] = inner
        children = inner.attributes["_modules"]
    with pytest.raises(errors.UserError, match="nested without end"):
        load(tmp_path, files.zip_bytes(tree), kind="unet")


def to_diffusers(state, old=False, linear=True):
    """LDM's names to diffusers', written down the other way round than in the converter."""
    levels = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("decoder.up."))
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
    attention["proj_out"] = "to_out.0"
    if old:
        attention |= {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[1:2] == ["down"]:
            place = ["resnets", parts[4]] if parts[3] == "block" else ["downsamplers", "0"]
            parts = [parts[0], "down_blocks", parts[2], *place, *parts[5 - (len(place[0]) > 9) :]]
        elif parts[1:2] == ["up"]:
            level = str(levels - 1 - int(parts[2]))
            place = ["resnets", parts[4]] if parts[3] == "block" else ["upsamplers", "0"]
            parts = [parts[0], "up_blocks", level, *place, *parts[5 - (place[0][0] == "u") :]]
        elif parts[1:2] == ["mid"]:
            kind, number = parts[2].split("_")
            if kind == "block":
                parts = [parts[0], "mid_block", "resnets", str(int(number) - 1), *parts[3:]]
            else:
                if linear and value.ndim == 4:
                    value = value[:, :, 0, 0]
                parts = [parts[0], "mid_block.attentions.0", attention[parts[3]], parts[4]]
        elif parts[1:2] == ["norm_out"]:
            parts[1] = "conv_norm_out"
        out[".".join(parts).replace("nin_shortcut", "conv_shortcut")] = value
    return out


@pytest.mark.parametrize(("old", "linear"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_diffusers_names(tmp_path, old, linear, suffix):
    config = {"channels": 4, "channel_mult": (1, 2, 3), "num_res_blocks": 2, "num_groups": 4}
    shapes = autoencoder_kl_weights.template(config)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    state = official.state(
        {k: v.shape for k, v in autoencoder_kl_weights.to_official(zeros).items()}
    )
    theirs = to_diffusers(state, old, linear)
    assert not theirs.keys() & {"encoder.norm_out.weight", "encoder.mid.attn_1.q.weight"}
    assert "decoder.up_blocks.0.upsamplers.0.conv.weight" in theirs
    assert "encoder.down_blocks.0.downsamplers.0.conv.bias" in theirs
    data = (
        safetensors.numpy.save(theirs)
        if suffix == ".safetensors"
        else files.zip_bytes(files.tensors(theirs))
    )
    weights = load(tmp_path, data, name="vae" + suffix)
    assert weights.kind == "autoencoder" and "diffusers" in weights.notes[-1]
    cases.same(weights.state, state)


def test_names_of_a_diffusers_checkpoint_as_published():
    """A few pairs from the published file, by hand."""
    pairs = {
        "encoder.down_blocks.1.resnets.0.norm2.bias": "encoder.down.1.block.0.norm2.bias",
        "decoder.up_blocks.2.resnets.0.conv_shortcut.bias": (
            "decoder.up.1.block.0.nin_shortcut.bias"
        ),
        "encoder.down_blocks.2.downsamplers.0.conv.bias": "encoder.down.2.downsample.conv.bias",
        "encoder.mid_block.attentions.0.to_out.0.bias": "encoder.mid.attn_1.proj_out.bias",
        "decoder.mid_block.attentions.0.group_norm.weight": "decoder.mid.attn_1.norm.weight",
        "decoder.mid_block.resnets.1.norm2.bias": "decoder.mid.block_2.norm2.bias",
        "decoder.up_blocks.0.resnets.2.conv1.weight": "decoder.up.3.block.2.conv1.weight",
        "decoder.up_blocks.3.resnets.0.norm1.bias": "decoder.up.0.block.0.norm1.bias",
        "decoder.up_blocks.1.upsamplers.0.conv.weight": "decoder.up.2.upsample.conv.weight",
        "decoder.conv_norm_out.bias": "decoder.norm_out.bias",
        "post_quant_conv.weight": "post_quant_conv.weight",
    }
    got = diffusers_keys.to_ldm({key: np.zeros(1) for key in pairs})
    assert list(got) == list(pairs.values())


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", ml_dtypes.bfloat16])
def test_half_and_double_precision_come_as_float32(tmp_path, dtype):
    state = {MARK: np.linspace(-3, 3, 50).astype(dtype)}
    wanted = {MARK: state[MARK].astype(np.float32)}
    cases.same(load(tmp_path, files.zip_bytes(files.tensors(state)), "unet").state, wanted)
    cases.same(load(tmp_path, safetensors_bytes(state), "unet").state, wanted)


def safetensors_bytes(state):
    """The format by hand, so that bfloat16 is in it."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16"}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for key, array in state.items():
        data = array.tobytes()
        kind = names[array.dtype.name]
        offsets = [len(body), len(body) + len(data)]
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "take 200 bytes, 199 are there"),
        (lambda d: d[:20], "a header of"),
        (lambda d: d.replace(b"F32", b"F64"), "in 200 bytes"),
        (lambda d: d.replace(b"[0, 200]", b"[0, 2e9]"), "no whole numbers"),
        (lambda d: d.replace(b"[0, 200]", b"[0, -10]"), "no whole numbers"),
        (lambda d: d.replace(b'"dtype"', b'"dtypo"'), "header entry 'w'"),
        (lambda d: d.replace(b"F32", b"F8X"), "element type F8X"),
        (lambda d: d.replace(b"{", b"[", 2), "no weights file"),
        (lambda d: d.replace(b": {", b": [", 2), "no JSON"),
    ],
)
def test_damaged_safetensors(tmp_path, change, message):
    whole = safetensors_bytes({"w": np.ones(50, "f4")})
    changed = change(whole)
    assert changed != whole
    with pytest.raises(errors.UserError, match=message):
        load(tmp_path, changed, "unet")


def test_what_cannot_be_used_is_said(tmp_path):
    with pytest.raises(errors.UserError, match="no such file"):
        containers.load(tmp_path / "missing.pt")
    with pytest.raises(errors.UserError, match=r"cannot tell the kind .* \(a\).*input_blocks"):
        load(tmp_path, files.zip_bytes(files.tensors({"a": np.ones(1, np.float32)})))
    with pytest.raises(errors.UserError, match=r"no weights .* found lr, accepted"):
        load(tmp_path, files.zip_bytes({"lr": 1}))
    with pytest.raises(errors.UserError, match=r"found list, accepted"):
        load(tmp_path, files.zip_bytes([1, 2]))
    with pytest.raises(errors.UserError, match="weights are floating-point"):
        load(tmp_path, files.zip_bytes(files.tensors({MARK: np.ones(3, bool)})), "unet")


def test_names_that_would_break_the_line_are_refused(tmp_path):
    for key in ("a\nb", "\x1b[2J", "k" * 1000):
        data = files.zip_bytes(files.tensors({key: np.ones(1, np.float32)}))
        with pytest.raises(errors.UserError, match="a tensor is called") as caught:
            load(tmp_path, data, "unet")
        assert str(caught.value).isprintable()


def test_an_optimiser_is_never_read(tmp_path):
    """Only the storages of the network are opened: the rest may even be missing."""
    state = {"model": files.tensors({MARK: np.ones(3, np.float32)})}
    state["opt"] = files.tensors({"m": np.ones(7, np.float32)})
    data = files.zip_bytes(state)
    assert b"archive/data/1" in data
    data = data.replace(b"archive/data/1", b"archive/gone/1")
    cases.same(load(tmp_path, data, "unet").state, {MARK: np.ones(3, np.float32)})


def test_all_that_does_not_fit_is_listed(tmp_path):
    state = dict(cases.unet_state())
    del state["out.2.bias"]
    state["extra"] = np.zeros(2, np.float32)
    state["time_embed.0.bias"] = np.zeros(3, np.float32)
    weights = load(tmp_path, files.zip_bytes(files.tensors(state)))
    with pytest.raises(errors.UserError) as caught:
        conversion.convert(weights.kind, weights.state)
    for words in ("1 missing (out.2.bias)", "1 unexpected (extra)", "1 misshapen (time_embed.0"):
        assert words in str(caught.value)
