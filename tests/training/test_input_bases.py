"""Bases of layers' inputs: their properties, and what the published stream loses."""

import itertools

import numpy as np
import pytest
import threadpoolctl

from madad_jax.core import errors
from madad_jax.training import input_bases


def inputs_in(rng, d, directions, n=200):
    """n inputs of d dimensions in a random subspace, and a little everywhere."""
    span = np.linalg.qr(rng.standard_normal((d, directions)))[0]
    return rng.standard_normal((n, directions)) @ span.T + 1e-3 * rng.standard_normal((n, d))


def bases(tasks, batches=4, **options):
    """The basis after each task."""
    found, before = [], {}
    for x in tasks:
        gathering = input_bases.Gathering(input_bases.Options(**options), before)
        for part in np.split(x, batches):
            gathering.add({"layer": (part.T @ part).astype(np.float32)})
        before = gathering.result()
        found.append(before["layer"])
    return found


@pytest.mark.parametrize("kind", input_bases.KINDS)
def test_every_number_of_threads_finds_the_same_digits(kind):
    """The last digits of OpenBLAS depend on it, and a run goes on in another process."""
    # All directions weigh nearly the same, so that any rounding turns the eigenvectors.
    x = [np.linalg.qr(np.random.default_rng(k).standard_normal((640, 256)))[0] for k in (0, 1)]
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = bases(x, kind=kind)
    with threadpoolctl.threadpool_limits(2, "blas"):
        two = bases(x, kind=kind)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("energy", [0.9, 0.99, 0.9999])
def test_columns_are_orthonormal_grow_and_stay(energy):
    rng = np.random.default_rng(0)
    found = bases([inputs_in(rng, 12, k) for k in (3, 4, 5, 6)], energy=energy)
    for basis in found:
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=2e-6)
    ranks = [basis.shape[1] for basis in found]
    assert ranks == sorted(ranks) and 0 < ranks[0] < ranks[-1] <= 12
    for old, new in itertools.pairwise(found):
        np.testing.assert_array_equal(new[:, : old.shape[1]], old)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_the_least_number_of_columns_that_holds_the_energy(energy):
    """Of one task they are the leading left singular vectors of all its inputs at once."""
    x = np.random.default_rng(1).standard_normal((64, 10)) * np.arange(1, 11)
    (basis,) = bases([x], energy=energy)
    _, s, v = np.linalg.svd(x)
    share = np.cumsum(s**2) / np.sum(s**2)
    rank = int(np.sum(share < energy)) + 1
    assert basis.shape[1] == rank
    np.testing.assert_allclose(basis @ basis.T, v[:rank].T @ v[:rank], atol=1e-4)


def test_a_task_counts_what_the_tasks_before_it_hold_already():
    rng = np.random.default_rng(2)
    x = inputs_in(rng, 8, 3)
    first, again = bases([x, x], energy=0.99)
    np.testing.assert_array_equal(first, again)
    everything, _ = bases([rng.standard_normal((64, 8)), x], energy=1.0)
    assert everything.shape == (8, 8)


@pytest.mark.parametrize("energy", [0.9, 0.99])
def test_a_later_task_is_held_with_the_fewest_further_columns(energy):
    rng = np.random.default_rng(6)
    # Both have most of their energy in the same few directions.
    shared = inputs_in(rng, 16, 3) @ np.diag(np.linspace(1, 3, 16))
    tasks = [shared + inputs_in(rng, 16, 4), shared + inputs_in(rng, 16, 6)]
    first, second = bases(tasks, energy=energy)
    total = np.sum(tasks[1] ** 2)

    def held(basis):
        return np.sum((tasks[1] @ basis) ** 2) / total

    assert second.shape[1] > first.shape[1]
    assert held(second) >= energy - 1e-6 > held(second[:, :-1])
    # No other directions of that number hold more of what the first basis leaves.
    rest = tasks[1] - tasks[1] @ first @ first.T
    best = np.sum(np.linalg.svd(rest, compute_uv=False)[: second.shape[1] - first.shape[1]] ** 2)
    np.testing.assert_allclose(held(second) - held(first), best / total, atol=1e-6)


def test_rank_is_bounded():
    rng = np.random.default_rng(3)
    tasks = [rng.standard_normal((64, 10)) for _ in range(3)]
    assert [b.shape[1] for b in bases(tasks, energy=1.0, max_rank=0.45)] == [4, 4, 4]


def test_the_published_stream_forgets_its_beginning():
    """Singular values are dropped between batches: 0.8 of the energy is kept here, against 0.99 of
    the moment, at no fewer columns."""
    rng = np.random.default_rng(4)
    early, late = 3 * inputs_in(rng, 40, 8, 400), inputs_in(rng, 40, 20, 400)
    x = np.concatenate([early, 0.3 * late])
    total = np.sum(x**2)
    (stream,), (moment,) = bases([x], 16, kind="isvd"), bases([x], 16, energy=0.99)
    kept = [np.sum((x @ basis) ** 2) / total for basis in (stream, moment)]
    assert kept[1] >= 0.99 - 1e-6
    assert kept[0] != pytest.approx(kept[1], abs=1e-4)


def test_published_columns_are_not_orthonormal():
    rng = np.random.default_rng(5)
    tasks = [inputs_in(rng, 12, 4), inputs_in(rng, 12, 6)]
    first, second = bases(tasks, kind="isvd")
    assert second.shape[1] > first.shape[1]
    assert np.abs(second.T @ second - np.eye(second.shape[1])).max() > 0.01
    _, ours = bases(tasks, energy=0.999)
    assert np.abs(ours.T @ ours - np.eye(ours.shape[1])).max() < 1e-5


@pytest.mark.parametrize(
    "options", [{"kind": "svd"}, {"energy": 0.0}, {"energy": 1.5}, {"max_rank": 0.0}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(errors.UserError, match=r"train\.continual\.\w+: found"):
        input_bases.Options(**options)
