"""Who is in train, val and test: by published lists or by a seeded hash of the person's id.

A hash keeps everyone where they are when others join or leave. No person stands in two splits.
A small cohort, whose hash leaves `val` with fewer than two people, lends it those of `train` that
the hash has next to it: thresholds are chosen there.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, messages
from madad_jax.prepare import subject

SPLITS = ("train", "val", "test")
# People of `val` that thresholds need, and how many `train` keeps when it lends some.
_LEAST_VAL, _LEAST_TRAIN = 2, 3
_ALIASES = {
    "validation": "val",
    "dev": "val",
    "valid": "val",
    "training": "train",
    "testing": "test",
}
# In order of preference: a person's column before a file's.
ID_COLUMNS = ("subject", "id", "scan", "subject_id", "participant_id", "img_name", "image", "name")


def by_hash(person: str, fractions: dict[str, float], seed: int) -> str:
    """The split of a person, from nothing but the arguments.

    Args:
      person: id.
      fractions: {split: share}; they add up to 1.
      seed: another seed, another division.
    """
    position = _position(person, seed)
    for split in SPLITS:
        position -= fractions.get(split, 0.0)
        if position < 0:
            return split
    return max(fractions, key=lambda split: fractions[split])  # Rounding of the shares.


def _position(person: str, seed: int) -> float:
    """The digest as a number in [0, 1): the shares cut that line into splits."""
    digest = hashlib.sha256(f"{seed}:{person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _divide(people: set[str], fractions: dict[str, float], seed: int) -> dict[str, str]:
    """{person: split} by the hash, with people of `train` lent to a `val` that is too small."""
    found = {person: by_hash(person, fractions, seed) for person in people}
    if fractions.get("train", 0.0) > 0 and fractions.get("val", 0.0) > 0:
        train = sorted(p for p in found if found[p] == "train")
        train.sort(key=lambda person: _position(person, seed), reverse=True)
        missing = max(0, _LEAST_VAL - sum(split == "val" for split in found.values()))
        if len(train) >= missing + _LEAST_TRAIN:
            found |= dict.fromkeys(train[:missing], "val")
    return found


def lent(items: Iterable[subject.Item], fractions: dict[str, float], seed: int) -> tuple[str, ...]:
    """People who stand elsewhere than the hash has them, because `val` would be too small."""
    people = {item.subject: item.split for item in items}
    return tuple(sorted(p for p in people if people[p] != by_hash(p, fractions, seed)))


def check_fractions(fractions: dict[str, Any], where: str) -> dict[str, float]:
    """The shares as floats.

    Raises:
      UserError: unknown split, or they do not add up to 1.
    """
    try:
        shares = {str(split): float(share) for split, share in fractions.items()}
    except (TypeError, ValueError, OverflowError):
        shares = {}
    found = messages.shorten(str(fractions))
    # NaN is neither below 0 nor above 1, so that it is asked what it is and not what it is not.
    if not shares or set(shares) - set(SPLITS) or not all(0 <= s <= 1 for s in shares.values()):
        raise errors.UserError(f"{where}: found {found}, accepted: shares of {SPLITS}")
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise errors.UserError(f"{where}: found {found}, accepted: shares that add up to 1")
    return shares


def read_lists(text: str) -> dict[str, str]:
    """{id: split} from files.

    Args:
      text: a CSV file with the columns `subject` (or `id`, ...) and `split`; or
        `train=a.csv,val=b.csv,test=c.csv`, each with one id a line or a column of ids.

    Raises:
      UserError: a file without ids, an unknown split, or someone in two of them.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        split, equals, path = part.partition("=")
        if not equals:
            split, path = "", part
        for person, into in _read(epath.Path(path.strip()), _split(split.strip(), part)):
            if found.setdefault(person, into) != into:
                raise errors.UserError(
                    f"--splits: '{person}' is in both '{found[person]}' and '{into}'; each may be "
                    "in one"
                )
    return found


def assign(
    items: Iterable[subject.Item],
    *,
    fractions: dict[str, float],
    seed: int,
    lists: dict[str, str] | None = None,
) -> tuple[list[subject.Item], list[str]]:
    """The items with their splits, and the ids that no list names (those are left out).

    Lists may name people or scans, also by the file name without its suffix.

    Raises:
      UserError: two scans of one person are listed in different splits, or no item is listed.
    """
    items = list(items)
    people_here = {item.subject for item in items}
    divided = _divide(people_here, fractions, seed) if lists is None else {}
    placed, unlisted, people = [], [], {}
    for item in items:
        if lists is None:
            split = divided[item.subject]
        else:
            split = next((lists[name] for name in list_names(item) if name in lists), "")
        if not split:
            unlisted.append(item.scan)
            continue
        # By the person, whatever the lists name: two scans of one person share what a network could
        # learn.
        if people.setdefault(item.subject, split) != split:
            raise errors.UserError(
                f"--splits: person '{item.subject}' is in both '{people[item.subject]}' and "
                f"'{split}' (scan '{item.scan}'); each may be in one"
            )
        placed.append(dataclasses.replace(item, split=split))
    if lists is not None and not placed:
        raise errors.UserError(
            f"--splits: none of {len(unlisted)} scans is listed; the lists name "
            f"'{next(iter(lists), '')}', the scans are called '{unlisted[0] if unlisted else ''}'"
        )
    return placed, unlisted


def list_names(item: subject.Item) -> list[str]:
    """Ids by which a list or table may name a scan, the most particular first."""
    # Published lists name files as often as people.
    stems = [epath.Path(path).name.split(".nii")[0] for path in item.images.values()]
    return [item.scan, item.subject, *stems]


def _split(name: str, where: str) -> str:
    split = _ALIASES.get(name.lower(), name.lower())
    if split and split not in SPLITS:
        raise errors.UserError(f"--splits: found '{name}' in '{where}', accepted: {SPLITS}")
    return split


def _read(path: epath.Path, split: str) -> list[tuple[str, str]]:
    """(id, split) of every line."""
    try:
        text = atomic_files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.UserError(f"'{path}' is no text file (UTF-8)") from error
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise errors.UserError(f"'{path}' is empty; accepted: a list of ids")
    header = [cell.strip().lower() for cell in rows[0]]
    column = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    # A file for each split may be a bare list of ids, without a header.
    if split:
        body = rows if column is None else rows[1:]
        return [(row[column or 0].strip(), split) for row in body if len(row) > (column or 0)]
    if column is None or "split" not in header:
        raise errors.UserError(
            f"'{path}' has the columns {header}; accepted: one of {ID_COLUMNS} and 'split' (or "
            "--splits=train=a.csv,val=b.csv,test=c.csv)"
        )
    which = header.index("split")
    found = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) <= max(column, which) or not _split(row[which].strip(), str(path)):
            raise errors.UserError(f"'{path}', line {number}: id or split is missing")
        found.append((row[column].strip(), _split(row[which].strip(), str(path))))
    return found
