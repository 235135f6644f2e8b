"""Names of slice files, and what else lies beside them.

    {id}-slice_{k}-{modality|brainmask|segmentation}.png

Letter case counts in ids alone. What fits no slice is told, with the name that was meant where
one is near: a file that is passed over in silence is a lesion that nobody scores.
"""

import collections
import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from madad_jax.core import errors, messages

BRAIN_MASK, SEGMENTATION = "brainmask", "segmentation"
LAYOUT = "{split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png"
# Greedy: ids may hold dashes, modality names and `-slice_` itself; the last one counts.
_NAME = re.compile(
    r"^(?P<subject>.+)-slice_(?P<slice>[0-9]+)-(?P<kind>.+)\.png$", re.IGNORECASE | re.DOTALL
)
_PICTURE = re.compile(r"\.(png|jpe?g|tiff?|bmp|gif|npy|npz|nii|nii\.gz|mha|dcm)$", re.IGNORECASE)
# What tools and people call the two masks: endings that are no modality.
_MEANT = {
    SEGMENTATION: frozenset(
        """seg segm segs segment segments segmentations segmentation_mask seg_mask segmask label
        labels labelmap lesion lesions lesion_mask lesionmask lesion_seg tumor tumour tumor_mask gt
        groundtruth ground_truth truth annotation annotations roi consensus_gt wmh anomaly
        anomaly_mask target mask masks""".split()  # noqa: SIM905 (words, not a column of quotes)
    ),
    BRAIN_MASK: frozenset(
        """brain brainmasks brain_mask mask masks bet bet_mask brain_seg foreground
        skullstrip""".split()  # noqa: SIM905
    ),
}
_NEAR = 0.75  # Of difflib: "segmentaton" is near, "flair" is not.


@dataclasses.dataclass(frozen=True)
class SliceNames:
    """The files of one slice: `kinds` by modality or mask, `digits` of its number as written."""

    subject: str
    number: int
    digits: str
    kinds: Mapping[str, str]

    @property
    def modalities(self) -> list[str]:
        """Kinds that are no masks."""
        return [kind for kind in self.kinds if kind not in (BRAIN_MASK, SEGMENTATION)]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a split's folder holds: slices by subject and number, and all other pictures' names."""

    slices: tuple[SliceNames, ...]
    others: tuple[str, ...]

    @property
    def modalities(self) -> list[str]:
        """Kinds that are no masks, nor meant to be one, sorted."""
        found = {
            kind for one in self.slices for kind in one.modalities if not near_miss(kind, one.kinds)
        }
        return sorted(found)


def list_names(names: Iterable[str], folder: str) -> Listing:
    """Parses the names of a folder.

    Args:
      names: of its files.
      folder: for messages.

    Raises:
      UserError: two files for one slice and kind.
    """
    found: dict[tuple[str, int], dict[str, str]] = {}
    digits: dict[tuple[str, int], str] = {}
    spelled: dict[str, str] = {BRAIN_MASK: BRAIN_MASK, SEGMENTATION: SEGMENTATION}
    others = []
    # Sorted, as file systems list in any order, and training must not depend on it.
    for name in sorted(names):
        # Hidden files are the system's: a Mac leaves one beside each slice on foreign disks.
        if name.startswith("."):
            continue
        match = _NAME.match(name)
        if not match:
            others += [name] if _PICTURE.search(name) else []
            continue
        # A number, so that slice 9 comes before slice 10.
        key = (match["subject"], int(match["slice"]))
        kind = spelled.setdefault(match["kind"].lower(), match["kind"])
        kinds = found.setdefault(key, {})
        if kind in kinds:
            raise errors.UserError(
                f"'{folder}': '{_short(kinds[kind])}' and '{_short(name)}' are the same slice; "
                "accepted: one file for each slice and kind"
            )
        kinds[kind] = name
        digits.setdefault(key, match["slice"])
    slices = (SliceNames(*key, digits[key], kinds) for key, kinds in sorted(found.items()))
    return Listing(tuple(slices), tuple(others))


def find_modality(listing: Listing, modality: str) -> str | None:
    """How the folder spells a modality; None where no slice has it."""
    kinds = {kind for one in listing.slices for kind in one.modalities}
    return next((kind for kind in sorted(kinds) if kind.lower() == modality.lower()), None)


def describe_others(listing: Listing, modality: str) -> list[str]:
    """A line for each kind of file that is passed over: how many, one name, what was meant.

    Other modalities of the same slices are not among them.
    """
    lines = []
    if listing.others:
        lines.append(
            f"{len(listing.others)} files are not taken, as no slice is called like "
            f"'{_short(listing.others[0])}' (accepted: {LAYOUT})"
        )
    lost: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    alone = []
    for one in listing.slices:
        pictures = {kind: near_miss(kind, one.kinds, modality) for kind in one.modalities}
        for kind, meant in pictures.items():
            if meant:
                lost[kind, meant].append(one.kinds[kind])
        # A slice may lack a modality that others of its subject have, but not all of them.
        if all(pictures.values()):
            masks = [one.kinds[k] for k in (SEGMENTATION, BRAIN_MASK) if k in one.kinds]
            alone += masks[:1]
    for (kind, meant), names in lost.items():
        lines.append(
            f"{len(names)} files '-{_short(kind)}.png' are not taken, such as "
            f"'{_short(names[0])}': did you mean '-{meant}.png'?"
        )
    if alone:
        lines.append(f"{len(alone)} slices have masks and no picture, such as '{_short(alone[0])}'")
    return lines


def near_miss(kind: str, beside: Collection[str], modality: str = "") -> str:
    """The mask that an ending was meant for; "" for one that stands for itself.

    Args:
      kind: the ending.
      beside: all endings of its slice; what is there already was not meant.
      modality: the one that is asked for.
    """
    plain = kind.lower().replace("-", "_").strip("_ ")
    if kind == modality or plain == modality.lower():
        return ""
    for meant in (BRAIN_MASK, SEGMENTATION):
        near = difflib.SequenceMatcher(None, plain, meant).ratio() >= _NEAR
        if meant not in beside and (plain in _MEANT[meant] or near):
            return meant
    return ""


def _short(name: str) -> str:
    return messages.shorten(name)
