"""DINOv2 and DINOv3: numbers that transformers computed, and files that do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from madad_jax.convert import vit_weights
from madad_jax.core import errors
from madad_jax.models import image_networks
from tests.models import vit_cases

TOLERANCE = 1e-5  # of values up to 4; our float32 is 3e-6 away from its float64


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def tokens(encoder, params, image):
    return np.asarray(jax.jit(encoder.apply)(params, jnp.asarray(image)))


@pytest.mark.parametrize("kind", vit_cases.KINDS)
def test_tokens_are_those_of_transformers(kind, tmp_path):
    file, encoder = tmp_path / "model.safetensors", vit_cases.encoder(kind)
    safetensors.numpy.save_file(vit_cases.state(kind), file)
    found = tokens(encoder, vit_weights.read(str(file), encoder), vit_cases.image(kind))
    with np.load(vit_cases.FIXTURES / "vit_tokens.npz") as expected:
        np.testing.assert_allclose(found, expected[kind], rtol=0, atol=TOLERANCE)


def test_the_authors_way_to_resize_positions_is_another():
    state, image = vit_cases.state("dinov2"), vit_cases.image("dinov2")
    for kind, moves in (("dinov2", True), ("dinov2_reg", False)):
        state, image = vit_cases.state(kind), vit_cases.image(kind)
        size, offset = (
            tokens(
                encoder := vit_cases.encoder(kind, **({"position_resize": how} if moves else {})),
                vit_weights.to_ours(state, encoder),
                image,
            )
            for how in ("size", "offset")
        )
        assert (np.abs(size - offset).max() > 0.01) == moves


def changed(**tensors):
    state = vit_cases.state("dinov3")
    for key, value in tensors.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            changed(layer__1__norm1__bias=None, extra__weight=np.ones(3, np.float32)),
            r"DINOv3 weights do not fit: 1 missing \(layer\.1\.norm1\.bias\); 1 unexpected "
            r"\(extra\.weight\)",
        ),
        (
            changed(embeddings__register_tokens=np.ones((1, 2, 64), np.float32)),
            r"1 misshapen \(embeddings\.register_tokens \(1, 2, 64\) instead of \(1, 4, 64\)\)",
        ),
        (
            changed(embeddings__patch_embeddings__weight=np.ones((64, 3, 14, 14), np.float32)),
            r"embeddings\.patch_embeddings\.weight \(64, 3, 14, 14\) instead of \(64, 3, 16, 16\)",
        ),
        (changed(norm__weight=np.full(64, np.nan, np.float32)), r"1 tensors hold NaN or infinity"),
        (vit_cases.state("dinov2"), r"\d+ missing .*; \d+ unexpected"),
    ],
)
def test_what_does_not_fit_is_one_error(state, said, tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(state, file)
    with pytest.raises(errors.UserError, match=said) as caught:
        vit_weights.read(str(file), vit_cases.encoder("dinov3"))
    assert str(caught.value).startswith(f"features.weights: {file}: ")
    assert "\n" not in str(caught.value)


def test_no_file_and_a_damaged_one(tmp_path):
    encoder = vit_cases.encoder("dinov3")
    with pytest.raises(errors.UserError, match=r"features\.weights: no file .*none\.safetensors"):
        vit_weights.read(str(tmp_path / "none.safetensors"), encoder)
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(vit_cases.state("dinov3"), file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(errors.UserError, match=r"features\.weights: .*damaged"):
        vit_weights.read(str(file), encoder)


@pytest.mark.torch
@pytest.mark.parametrize(("letter", "width", "heads"), [("s", 384, 6), ("b", 768, 12)])
@pytest.mark.parametrize("kind", vit_cases.KINDS)
def test_the_published_sizes_against_transformers_itself(kind, letter, width, heads, tmp_path):
    """Twelve blocks of ViT-S and ViT-B with random weights, two images that are not square."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network, patch, _ = vit_cases.KINDS[kind]
    network = network.replace("_s1", f"_{letter}1")
    name = {
        "dinov2": "Dinov2",
        "dinov2_reg": "Dinov2WithRegisters",
        "dinov3": "DINOv3ViT",
    }[kind]
    sizes = {"hidden_size": width, "num_hidden_layers": 12, "num_attention_heads": heads}
    sizes |= {"patch_size": patch, "image_size": 37 * patch}
    sizes |= {} if kind == "dinov2" else {"num_register_tokens": 4}
    sizes |= {"intermediate_size": 4 * width} if kind == "dinov3" else {}
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    shapes = {key: value.shape for key, value in safetensors.numpy.load_file(file).items()}
    state = {key: vit_cases.weight(key, shape) for key, shape in shapes.items()}
    safetensors.numpy.save_file(state, file, metadata={"format": "pt"})
    model = type(model).from_pretrained(tmp_path).eval().double()
    encoder = image_networks.vision_transformer(network)
    params = vit_weights.read(str(file), encoder)
    for sides in ((16, 20), (32, 27)):
        shape = (1, 3, *(patch * n for n in sides))
        image = np.random.default_rng(0).standard_normal(shape)
        with torch.no_grad():
            expected = model(torch.tensor(image)).last_hidden_state.numpy()
        expected = expected[:, -sides[0] * sides[1] :].reshape(1, *sides, -1)
        found = tokens(encoder, params, image.transpose(0, 2, 3, 1).astype(np.float32))
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_names_are_those_of_the_family():
    """Every tensor of the published list is read, but the mask token."""
    for kind in vit_cases.KINDS:
        state, encoder = vit_cases.state(kind), vit_cases.encoder(kind)
        params = vit_weights.to_ours(state, encoder)
        assert len(jax.tree.leaves(params)) == len(state) - 1
        total = sum(value.size for key, value in state.items() if not re.search("mask_token", key))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total
