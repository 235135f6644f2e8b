"""What is known about one slice besides its pixels."""

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from etils import epath

from madad_jax.core import errors, messages


@dataclasses.dataclass(frozen=True, order=True)
class Record:
    """One axial slice of one subject.

    Attributes:
      id: unique name within its split, e.g. `IXI012-slice_094`.
      subject: the person; no subject may stand in two of train, val and test.
      slice: slice number in the volume (bottom to top).
      modality: `T1`, `T2`, `FLAIR`, ... as the data names it.
      lesion_kind: what is wrong on this slice; `""` = healthy or unknown.
    """

    id: str
    subject: str
    slice: int
    modality: str
    lesion_kind: str = ""


# Splits that may share subjects are of one group: test and test_healthy hold slices with and
# without lesions of the same people.
_GROUPS = ("train", "val", "test")


def split_group(split: str) -> str | None:
    """`train`, `val` or `test`; None for a folder that is none of them."""
    return next((name for name in _GROUPS if split.startswith(name)), None)


def may_not_share(split: str, other: str) -> bool:
    """Whether nobody may stand in both."""
    return split_group(other) is not None and split_group(other) != split_group(split)


def check_disjoint(split: str, subjects: set[str], others: Mapping[str, set[str]]) -> None:
    """A person seen in training and again in testing makes every number worthless.

    Args:
      split: its name, for the message.
      subjects: who stands in it.
      others: who stands in the splits that may share nobody with it.

    Raises:
      UserError: somebody stands in two.
    """
    folded = {_fold(subject): subject for subject in sorted(subjects)}
    for other, theirs in others.items():
        if shared := sorted({_fold(s) for s in theirs} & folded.keys()):
            raise errors.UserError(
                f"subject '{messages.shorten(folded[shared[0]])}' is in both '{split}' and "
                f"'{other}' ({len(shared)} shared); each subject may be in one of "
                f"{', '.join(_GROUPS)}"
            )


def _fold(subject: str) -> str:
    """Equal for ids of one person whose files were copied about: letter case differs, or how a
    Mac spells an accent."""
    return unicodedata.normalize("NFC", subject).lower()


@runtime_checkable
class Slices(Protocol):
    """Random access to slices: all that a pipeline asks for.

    `slices[i]` is a dict of numpy arrays: `image` float32 [H, W, 1] in [-1, 1] with
    background -1, `brain_mask` and `segmentation` bool [H, W] (all False when the truth is
    not known), `has_segmentation` np.bool_. Safe to call from several threads.
    """

    def __len__(self) -> int:
        """Number of slices."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The slice `index`."""
        ...


@runtime_checkable
class Source(Slices, Protocol):
    """One split of a data set: what every reader under `madad_jax/data` is."""

    records: list[Record]

    def describe(self) -> str:
        """One line for logs and reports: what the data is and how much there is."""
        ...

    def fingerprint(self) -> str:
        """Digest that changes when the slices do: what a cache made from them is kept under."""
        ...


def digest(value: Any) -> str:
    """sha256 of the JSON text of plain values, for `Source.fingerprint`."""
    # Not `core.json_digest`, whose text has no spaces: caches and prepared folders that people
    # have are kept under this text's digest.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_facts(paths: Iterable[epath.Path]) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change in ns) of files, for `Source.fingerprint`.

    The names alone for paths on a remote store: asking for each file there takes hours.
    """
    facts = []
    for path in paths:
        # Nanoseconds, as two writes may fall into one second.
        local = "://" not in str(path)
        stat = os.stat(path) if local else None
        facts.append((path.name, *((stat.st_size, stat.st_mtime_ns) if stat else (0, 0))))
    return facts
