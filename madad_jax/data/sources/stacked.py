"""Several contrasts of a slice, and the slices beside it, as channels of one element.

    channel o * m + i      contrast i of the slice k + offset o;   offsets 0, -1, +1, -2, +2, ...

Slices are put together by subject and slice number, so that pictures of one number must show one
place: contrasts of a subject are registered to one another before. A contrast that a slice lacks,
and a neighbour beyond the end of a scan, is background and not `available`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from madad_jax.core import errors
from madad_jax.data.sources import record as record_lib

_BACKGROUND = -1.0
_Place = tuple[str, int]  # subject and slice number


def offsets(neighbours: int) -> tuple[int, ...]:
    """Places of the slices of an element beside its own, nearest first: 0, -1, 1, -2, 2, ..."""
    return (0, *(sign * n for n in range(1, neighbours + 1) for sign in (-1, 1)))


class Stacked:
    """Sources of one split, one for each contrast, as one source (`record.Source`).

    Elements have `image` float32 [H, W, C] and `available` bool [C] (which channels are there).
    Brain mask and segmentation are the slice's own, from the first contrast that it has.
    """

    def __init__(
        self,
        sources: Mapping[str, record_lib.Source],
        contrasts: Sequence[str],
        neighbours: int = 0,
    ):
        """Puts slices together.

        Args:
          sources: by contrast; a contrast that the whole split lacks is left out.
          contrasts: all of them, in the order of the channels.
          neighbours: slices below and above each slice that are channels too. A neighbour is as
            far as the split's slice numbers usually are.

        Raises:
          UserError: no contrast is there, or a contrast has one slice twice.
        """
        self.contrasts, self.neighbours = tuple(contrasts), neighbours
        self._sources = {name: sources[name] for name in self.contrasts if name in sources}
        if not self._sources:
            raise errors.UserError(
                f"data.modality: found {','.join(self.contrasts)}, of which this split holds none"
            )
        self._found: dict[_Place, dict[str, int]] = {}
        for name, source in self._sources.items():
            for index, record in enumerate(source.records):
                beside = self._found.setdefault((record.subject, record.slice), {})
                if name in beside:
                    raise errors.UserError(
                        f"{name}: slice {record.slice} of subject '{record.subject}' is there "
                        "twice; accepted: one"
                    )
                beside[name] = index
        self._places = sorted(self._found)
        self._step = _usual_step(self._places)
        self.records = [self._record(place) for place in self._places]

    def __len__(self) -> int:
        """Number of slices with at least one contrast."""
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class. Raises UserError as the sources do."""
        subject, number = self._places[index]
        beside = self._found[subject, number]
        read = {name: self._sources[name][i] for name, i in beside.items()}
        first = next(iter(read.values()))
        empty = np.full(first["image"].shape[:2], _BACKGROUND, np.float32)
        channels, available = [], []
        for offset in offsets(self.neighbours):
            for name in self.contrasts:
                found = read.get(name) if offset == 0 else self._read(subject, number, offset, name)
                channels.append(empty if found is None else found["image"][..., 0])
                available.append(found is not None)
        return {
            **first,
            "image": np.stack(channels, -1),
            "available": np.array(available),
        }

    def _read(self, subject: str, number: int, offset: int, name: str) -> dict[str, Any] | None:
        """The contrast of a neighbour; None where there is none."""
        index = self._found.get((subject, number + offset * self._step), {}).get(name)
        return None if index is None else self._sources[name][index]

    def _record(self, place: _Place) -> record_lib.Record:
        found = [self._sources[name].records[i] for name, i in self._found[place].items()]
        kinds = [record.lesion_kind for record in found if record.lesion_kind]
        return record_lib.Record(
            id=found[0].id,
            subject=place[0],
            slice=place[1],
            modality=",".join(self.contrasts),
            lesion_kind=kinds[0] if kinds else "",
        )

    def present(self, index: int) -> frozenset[str]:
        """The contrasts that a slice has."""
        return frozenset(self._found[self._places[index]])

    def describe(self) -> str:
        """One line: what each contrast's source says, and how many slices lack one."""
        parts = [source.describe() for source in self._sources.values()]
        whole = sum(len(self._found[place]) == len(self.contrasts) for place in self._places)
        beside = f", each with {self.neighbours} slices below and above" if self.neighbours else ""
        return (
            f"{'; '.join(parts)}; put together {len(self)} slices, {whole} with all of "
            f"{', '.join(self.contrasts)}{beside}"
        )

    def fingerprint(self) -> str:
        """Of all sources, the contrasts' order and the neighbours."""
        prints = {name: source.fingerprint() for name, source in self._sources.items()}
        return record_lib.digest([prints, self.contrasts, self.neighbours])


class Restricted:
    """The slices that have certain contrasts, with those alone (`record.Source`).

    What else a slice has is hidden: its pixels are background, and it is not `available`.
    """

    def __init__(self, source: Stacked, contrasts: Sequence[str]):
        """Chooses the slices; `left_out` counts those that lack one of the contrasts.

        Raises:
          UserError: none has all of them.
        """
        self._source, self._keep = source, tuple(c for c in source.contrasts if c in contrasts)
        wanted = frozenset(self._keep)
        self._chosen = [i for i in range(len(source)) if wanted <= source.present(i)]
        self.left_out = len(source) - len(self._chosen)
        if not self._chosen:
            raise errors.UserError(
                f"eval.contrasts: found {'+'.join(self._keep)}, and none of the {len(source)} "
                f"slices has {'all of them' if len(wanted) > 1 else 'it'}: {source.describe()}"
            )
        # Neighbours repeat the contrasts, offset by offset.
        repeats = len(offsets(source.neighbours))
        self._shown = np.tile([name in wanted for name in source.contrasts], repeats)
        self.records = [source.records[i] for i in self._chosen]

    def __len__(self) -> int:
        """Number of slices that have the contrasts."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `Stacked`."""
        element = self._source[self._chosen[index]]
        image = np.where(self._shown, element["image"], np.float32(_BACKGROUND))
        return {**element, "image": image, "available": element["available"] & self._shown}

    def describe(self) -> str:
        """One line."""
        return f"{self._source.describe()}; {'+'.join(self._keep)} alone, of {len(self)} slices"

    def fingerprint(self) -> str:
        """Of the source and of what is shown of it."""
        return record_lib.digest([self._source.fingerprint(), self._keep])


def _usual_step(places: Sequence[_Place]) -> int:
    """The median distance of slice numbers that follow one another in a subject; 1 for none."""
    pairs = itertools.pairwise(places)
    gaps = [b[1] - a[1] for a, b in pairs if a[0] == b[0]]
    return int(np.median(gaps)) if gaps else 1
