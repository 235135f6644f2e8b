import json

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.input import pipeline

_AUGMENT = {"style": "paper"}


def _train(source, process=0, count=1, seed=3, batch_size=4, augment=None):
    return pipeline.train_iterator(
        source,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        process_index=process,
        process_count=count,
    )


def _numbers(batch):
    return np.rint(batch["image"][:, 2, 2, 0] * 100).astype(int)


def _global_images(source, count, batches, **options):
    """[batches * 4, ...] images of the global stream, put together from `count` processes."""
    iterators = [_train(source, p, count, **options) for p in range(count)]
    rows = []
    for _ in range(batches):
        local = [next(iterator)["image"] for iterator in iterators]
        rows.extend(np.concatenate(local))
    return np.stack(rows)


@pytest.mark.parametrize("count", [2, 4])
def test_global_stream_does_not_depend_on_the_number_of_processes(numbered, count):
    source = numbered(7, side=16)
    alone = _global_images(source, 1, 5, augment=_AUGMENT)
    together = _global_images(source, count, 5, augment=_AUGMENT)
    np.testing.assert_array_equal(together, alone)
    plain = _global_images(source, 1, 5)
    assert np.abs(plain - alone).max() > 1e-3  # The augmentation did something.


def test_every_epoch_holds_every_slice_once_in_another_order(numbered):
    iterator = _train(numbered(8))
    epochs = [np.concatenate([_numbers(next(iterator)) for _ in range(2)]) for _ in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(8))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_seed_changes_the_order(numbered):
    orders = [_numbers(next(_train(numbered(50), seed=seed))).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("count", [1, 2])
def test_resumes_exactly_also_on_another_number_of_processes(numbered, count):
    source = numbered(7, side=16)
    whole = _global_images(source, 1, 6, augment=_AUGMENT)
    first = _train(source, augment=_AUGMENT)
    for _ in range(3):
        next(first)
    state = json.loads(json.dumps(first.state()))
    iterators = [_train(source, p, count, augment=_AUGMENT) for p in range(count)]
    for iterator in iterators:
        next(iterator)  # A used iterator must forget what it has prefetched.
        iterator.restore(state)
    local = [next(iterator)["image"] for iterator in iterators]
    np.testing.assert_array_equal(np.concatenate(local), whole[12:16])
    assert iterators[0].state() == {"samples_read": 16}


def test_state_counts_what_was_handed_out_not_what_was_prefetched(numbered):
    iterator = _train(numbered(7))
    assert iterator.state() == {"samples_read": 0}
    next(iterator)
    assert iterator.state() == {"samples_read": 4}


def test_bad_states(numbered):
    iterator = _train(numbered(7))
    with pytest.raises(errors.UserError, match="samples_read=6 is not a multiple"):
        iterator.restore({"samples_read": 6})
    with pytest.raises(errors.UserError, match="samples_read"):
        iterator.restore({"next_index": 3})


def test_training_sees_image_and_brain_mask_alone(numbered):
    batch = next(_train(numbered(5)))
    assert set(batch) == {"image", "brain_mask"}
    assert batch["image"].shape == (4, 4, 4, 1) and batch["image"].dtype == np.float32
    assert batch["brain_mask"].shape == (4, 4, 4) and batch["brain_mask"].dtype == bool


@pytest.mark.parametrize("make", [pipeline.train_iterator, pipeline.eval_batches])
def test_batch_size_must_divide_by_the_processes(numbered, make):
    options = {"seed": 0} if make is pipeline.train_iterator else {}
    with pytest.raises(errors.UserError, match=r"batch_size: found 6.*4 processes"):
        make(numbered(5), batch_size=6, process_count=4, process_index=0, **options)


def test_empty_source_is_refused(numbered):
    with pytest.raises(errors.UserError, match="found 0 slices"):
        _train(numbered(0))


def test_errors_of_the_source_reach_the_caller(numbered):
    class Broken(numbered):
        def __getitem__(self, index):
            raise errors.UserError("'x.png' is not a readable PNG")

    with pytest.raises(errors.UserError, match=r"x\.png"):
        next(_train(Broken(5)))
    with pytest.raises(errors.UserError, match=r"x\.png"):
        next(iter(pipeline.eval_batches(Broken(5), batch_size=2)))


@pytest.mark.parametrize(("count", "slices"), [(1, 7), (2, 7), (4, 9), (2, 8), (4, 1)])
def test_evaluation_pads_and_reads_every_slice_once(numbered, count, slices):
    passes = [
        pipeline.eval_batches(numbered(slices), batch_size=4, process_index=p, process_count=count)
        for p in range(count)
    ]
    batches = [list(one) for one in passes]
    assert len({len(one) for one in batches}) == 1 and len(batches[0]) == len(passes[0])
    flat = [batch for one in batches for batch in one]
    assert all(batch["image"].shape == (4 // count, 4, 4, 1) for batch in flat)
    seen = np.concatenate([batch["index"][batch["valid"]] for batch in flat])
    np.testing.assert_array_equal(np.sort(seen), np.arange(slices))
    for batch in flat:
        assert batch["index"].dtype == np.int32 and batch["valid"].dtype == bool
        np.testing.assert_array_equal(batch["index"][~batch["valid"]], -1)
        np.testing.assert_array_equal(
            _numbers(batch)[batch["valid"]], batch["index"][batch["valid"]]
        )
        even = batch["index"] % 2 == 0
        np.testing.assert_array_equal(
            batch["segmentation"].all((1, 2))[batch["valid"]], even[batch["valid"]]
        )


def test_evaluation_can_be_passed_twice(numbered):
    batches = pipeline.eval_batches(numbered(5), batch_size=2)
    first, second = ([b["index"].tolist() for b in batches] for _ in range(2))
    assert first == second == [[0, 1], [2, 3], [4, -1]]
