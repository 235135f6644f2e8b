"""Damage to the bytes of a file, each kind drawn by a seed: the same seed, the same damage.

Every function takes bytes and gives other bytes; none of them knows a format.
"""

import random


def flip_bits(data, seed, most=4):
    """One to `most` bits turned over, as bad memory and bad disks do."""
    draw = random.Random(f"flip {seed}")
    changed = bytearray(data)
    for place in draw.sample(range(8 * len(data)), draw.randint(1, min(most, 8 * len(data)))):
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def cut(data, seed):
    """The beginning alone, as a copy that was broken off leaves it."""
    return data[: random.Random(f"cut {seed}").randrange(len(data))]


def grow(data, seed, most=64):
    """Bytes put in between, or after the end."""
    draw = random.Random(f"grow {seed}")
    place = draw.choice((draw.randrange(len(data) + 1), len(data)))
    return data[:place] + draw.randbytes(draw.randint(1, most)) + data[place:]


def overwrite(data, seed, most=16):
    """A run of bytes replaced by random ones, zeros, ones, or others of the same file."""
    draw = random.Random(f"overwrite {seed}")
    length = draw.randint(1, min(most, len(data)))
    place, other = (draw.randrange(len(data) - length + 1) for _ in range(2))
    choices = (
        draw.randbytes(length),
        bytes(length),
        b"\xff" * length,
        data[other : other + length],
    )
    run = draw.choice([choice for choice in choices if choice != data[place : place + length]])
    return data[:place] + run + data[place + length :]


KINDS = {"flip": flip_bits, "cut": cut, "grow": grow, "overwrite": overwrite}


def damaged(data, seed):
    """(kind of the damage, damaged bytes); the kinds take turns as seeds count up."""
    kind = tuple(KINDS)[seed % len(KINDS)]
    return kind, KINDS[kind](data, seed)
