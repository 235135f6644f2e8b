"""What is known about one slice besides its pixels."""

import dataclasses
from typing import Any, Protocol, runtime_checkable


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
