"""Names of BIDS images: entities in their order, and a suffix.

    sub-01_ses-2_acq-fast_run-1_T1w  ->  sub-01_ses-2_acq-fast_run-1_desc-anomaly_mask

A name that is made keeps the source's entities; its suffix goes, since `T1w_desc-...` would be an
entity without a label.
"""

import dataclasses
import re

from madad_jax.core import errors, messages

# Of raw anatomical images.
RAW = ("sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "part", "chunk")
# As derivatives order them: another order is an error of the validator.
_ORDER = (*RAW[:-1], "space", "chunk", "desc")
SUFFIXES = {"T1": "T1w", "T1CE": "T1w", "T2": "T2w", "FLAIR": "FLAIR", "PD": "PDw"}
_NAME = re.compile(r"((?:[a-z]+-[0-9A-Za-z+]+_)+)([0-9A-Za-z]+)")


@dataclasses.dataclass(frozen=True)
class Name:
    """A name without its ending.

    Attributes:
      entities: {key: label}, in the order of the name.
      suffix: its last word.
    """

    entities: tuple[tuple[str, str], ...]
    suffix: str

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{label}" for key, label in self.entities), self.suffix])

    @property
    def person(self) -> str:
        """`sub-01`."""
        return f"sub-{self.get('sub')}"

    @property
    def session(self) -> str:
        """`ses-2`; "" without sessions."""
        return f"ses-{self.get('ses')}" if self.get("ses") else ""

    @property
    def folder(self) -> str:
        """Where BIDS wants it below the data set."""
        return "/".join(part for part in (self.person, self.session, "anat") if part)

    @property
    def contrast(self) -> str:
        """The model's word for it; "" for none of `SUFFIXES`."""
        if self.suffix == "T1w" and self.get("ce"):
            return "T1CE"
        return next((c for c, suffix in SUFFIXES.items() if suffix == self.suffix), "")

    def get(self, key: str) -> str:
        """The label of an entity; "" where the name has none."""
        return dict(self.entities).get(key, "")

    def derive(self, suffix: str, **entities: str) -> "Name":
        """The name of something made from this image: more entities, another suffix."""
        found = {**dict(self.entities), **entities}
        return Name(tuple((key, found[key]) for key in _ORDER if key in found), suffix)


def suffix(contrast: str) -> str:
    """BIDS's word for a contrast of a model; of several, as T1,FLAIR, with hyphens between.

    Raises:
      UserError: BIDS has none.
    """
    names = contrast.split(",")
    unknown = [name for name in names if name not in SUFFIXES]
    if unknown:
        raise errors.UserError(
            f"the model's contrast is '{messages.shorten(unknown[0])}'; accepted for BIDS: "
            f"{', '.join(SUFFIXES)}"
        )
    return "-".join(SUFFIXES[name] for name in names)


def parse(stem: str) -> Name | None:
    """The parts of a name; None where it is none of BIDS's (an entity twice, none, no `sub-`)."""
    match = _NAME.fullmatch(stem)
    if not match:
        return None
    pairs = tuple(tuple(part.split("-", 1)) for part in match[1].strip("_").split("_"))
    keys = [key for key, _ in pairs]
    if keys[0] != "sub" or len(set(keys)) < len(keys):
        return None
    return Name(pairs, match[2])


def is_raw(name: Name) -> bool:
    """Whether the entities are those of a raw image, in their order."""
    keys = [key for key, _ in name.entities]
    return keys == [key for key in RAW if key in keys]
