"""Which contrasts a training sample shows, and what is shared by methods on several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.methods.stacked import channels
from tests.methods import stand_ins


def shares(settings, exists, draws=4000):
    """{shown channels: share of the samples}."""
    drawn = settings.drop(jax.random.key(0), jnp.tile(jnp.asarray([exists]), (draws, 1)))
    rows, counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)
    return {tuple(row.tolist()): n / draws for row, n in zip(rows, counts, strict=True)}


def test_every_subset_of_what_is_there_is_drawn_and_all_of_it_at_least_so_often():
    found = shares(channels.Channels(2), (True, True))
    assert set(found) == {(True, True), (True, False), (False, True)}
    assert all(abs(share - 1 / 3) < 0.03 for share in found.values())  # above keep_all=0.3
    found = shares(channels.Channels(3, keep_all=0.5), (True,) * 3)
    full = found.pop((True,) * 3)
    assert abs(full - 0.5) < 0.03 and len(found) == 6
    assert all(abs(share - 0.5 / 6) < 0.02 for share in found.values())
    # What does not exist is never shown, and subsets are those of the rest.
    found = shares(channels.Channels(3), (True, False, True))
    assert set(found) == {(True, False, True), (True, False, False), (False, False, True)}
    assert shares(channels.Channels(2, keep_all=1.0), (True, True)) == {(True, True): 1.0}
    assert shares(channels.Channels(1), (True,)) == {(True,): 1.0}


def test_neighbours_go_with_their_contrast():
    settings = channels.Channels(2, neighbours=1)
    found = shares(settings, (True, True, True, True, False, True))
    assert set(found) == {
        (True, True, True, True, False, True),
        (True, False, True, False, False, False),
        (False, True, False, True, False, True),
    }
    assert settings.count == 6


def test_a_mean_reads_nothing_of_what_is_missing():
    maps = jnp.stack([jnp.full((2, 3, 3), 2.0), jnp.full((2, 3, 3), jnp.nan)], -1)
    shown = jnp.asarray([[True, False], [True, False]])
    np.testing.assert_array_equal(channels.mean_shown(maps, shown), np.full((2, 3, 3), 2.0))
    both = channels.mean_shown(jnp.asarray([[[[1.0, 4.0]]]]), jnp.ones((1, 2), bool))
    assert float(both[0, 0, 0]) == 2.5


def test_channels_fold_to_samples_and_back():
    x = jnp.arange(2 * 3 * 3 * 4.0).reshape(2, 3, 3, 4)
    folded = channels.fold(x)
    assert folded.shape == (8, 3, 3, 1)
    np.testing.assert_array_equal(folded[5, ..., 0], x[1, ..., 1])
    np.testing.assert_array_equal(channels.unfold(folded, 2)[..., 0], x)


@dataclasses.dataclass(frozen=True)
class Watched(stand_ins.Squares):
    """Notes what it encodes; its last layer is the identity."""

    seen: list = dataclasses.field(default_factory=list)

    def apply(self, variables, x, method):
        if method == "encode":
            self.seen.append(np.asarray(x))
        if method == "output_layer":
            return x
        return super().apply(variables, x, method.removesuffix("_features"))


def test_the_autoencoder_sees_one_channel_that_is_there():
    module = Watched()
    network = dataclasses.replace(stand_ins.autoencoder(), _module=module)
    method = channels.ContrastAutoencoder(network)
    images = jnp.stack([jnp.full((4, 8, 8), v) for v in (0.5, jnp.nan, -0.5)], -1)
    batch = {
        "image": images,
        "brain_mask": jnp.ones((4, 8, 8), bool),
        "available": jnp.tile(jnp.asarray([[True, False, True]]), (4, 1)),
    }
    for seed in range(4):
        loss, _ = method.loss({"autoencoder": {}}, {}, batch, jax.random.key(seed))
        assert np.isfinite(float(loss))
    values = {float(v) for x in module.seen for v in x[:, 0, 0, 0]}
    assert values == {0.5, -0.5} and module.seen[0].shape == (4, 8, 8, 1)


def test_bad_settings_are_named():
    with pytest.raises(errors.UserError, match=r"contrasts.missing: found 'mean'"):
        channels.Channels(2, missing="mean")
    with pytest.raises(errors.UserError, match=r"contrasts.keep_all: found 1.5"):
        channels.Channels(2, keep_all=1.5)
