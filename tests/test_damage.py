"""The damages that other tests do are damages, and the same ones every time."""

import pytest

from tests import damage

DATA = bytes(range(200)) * 3


@pytest.mark.parametrize("kind", sorted(damage.KINDS))
def test_a_seed_stands_for_one_damage(kind):
    changes = [damage.KINDS[kind](DATA, seed) for seed in range(100)]
    assert changes == [damage.KINDS[kind](DATA, seed) for seed in range(100)]
    assert DATA not in changes
    assert len(set(changes)) > 50


def test_lengths_tell_the_kind():
    for seed in range(40):
        kind, changed = damage.damaged(DATA, seed)
        longer = len(changed) - len(DATA)
        assert {"flip": longer == 0, "overwrite": longer == 0}.get(kind, longer != 0)
        assert (longer < 0) == (kind == "cut")


def test_one_byte_is_enough():
    for kind, change in damage.KINDS.items():
        assert change(b"a", 1) != b"a", kind
