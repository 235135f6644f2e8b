"""The series of a folder of DICOM files, and which of them is the scan.

A person's folder from an archive holds localizers, other contrasts, reformats and copies. One
series is taken where the rules leave one (`tag_rules.py`), or where somebody names its number.
Else all are listed: nothing is guessed.
"""

import collections
import dataclasses

import pydicom
from etils import epath

from madad_jax.core import errors, messages
from madad_jax.data import tag_rules
from madad_jax.scans import dicom_files

# As many parallel images make a scan for `scans.dicom`.
_LEAST = 8
_MOST_LISTED = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """A series, by its headers.

    Attributes:
      uid: SeriesInstanceUID.
      number, description: as the header has them, for people.
      images: frames, each UID once.
      size: of a picture, `rows x columns`.
      spacing: mm in the plane and between slices, as text.
      no_scan: why it is none to be scored; "" = nothing says so.
      contrast, why: see `tag_rules.guess_contrast`.
      uids: of its images.
      paths: of its files.
    """

    uid: str
    number: str
    description: str
    images: int
    size: str
    spacing: str
    no_scan: str
    contrast: str
    why: str
    uids: frozenset[str]
    paths: tuple[epath.Path, ...]

    def describe(self) -> str:
        """One line for a list."""
        kind = self.no_scan or self.contrast or "contrast not clear"
        because = "" if self.no_scan else f" ({self.why})"
        return (
            f"{self.number} '{self.description}': {kind}{because}, {self.images} images of "
            f"{self.size}, {self.spacing} mm"
        )


def list_series(folder: epath.Path) -> list[Series]:
    """All series of MR or CT among the files of a folder, by number; pixels are not read.

    Raises:
      UserError: the folder cannot be read from its disk.
    """
    headers: dict[str, dict[epath.Path, pydicom.Dataset]] = collections.defaultdict(dict)
    for path in dicom_files.list_files(folder):
        header = dicom_files.read_header(path)
        if header is not None and dicom_files.is_image(header):
            headers[str(header.get("SeriesInstanceUID") or "")][path] = header
    found = [_describe(uid, many) for uid, many in headers.items() if uid]
    return sorted(found, key=lambda one: (one.number.zfill(12), one.uid))


def choose(folder: epath.Path, contrast: str = "", series: str = "") -> tuple[str, tuple[str, ...]]:
    """(SeriesInstanceUID of the scan, sentences on why); "" where there is no choice to make.

    Args:
      folder: of DICOM files.
      contrast: T1, T2, ...; "" = any.
      series: its number, or its SeriesInstanceUID; "" = found by the rules.

    Raises:
      UserError: the rules leave none or several, or no series has the number; with the list.
    """
    found = list_series(folder)
    if series:
        return _by_number(folder, found, series)
    large = [one for one in found if one.images >= _LEAST]
    if len(large) < 2:
        # One scan, however it is called; its reader leaves strays out.
        return "", _doubt(large, contrast)
    scans = _drop_copies([one for one in large if not one.no_scan])
    wanted = contrast.upper()
    fits = [one for one in scans if wanted in ("", one.contrast.upper())]
    # Beside localizers alone, a series that does not say what it is can be no other.
    if len(scans) == 1 and not scans[0].contrast:
        fits = scans * all(one.no_scan == "localizer" for one in large if one not in scans)
    if len(fits) == 1:
        (one,) = fits
        others = f"{len(found) - 1} other series left out"
        return one.uid, (f"series {one.describe()}: taken, {others}",)
    name = f"{contrast} scan" if contrast else "scan"
    number = "no series is" if not fits else f"{len(fits)} series may be"
    raise errors.UserError(
        f"'{folder}': {number} the {name} by the rules; accepted: --series=NUMBER, one of "
        f"{_list(found)}"
    )


def _by_number(folder: epath.Path, found: list[Series], asked: str) -> tuple[str, tuple[str, ...]]:
    fits = [one for one in found if asked in (one.number, one.uid)]
    if len(fits) == 1:
        return fits[0].uid, (f"series {fits[0].describe()}: taken, as asked for",)
    shown = messages.shorten(asked)
    if fits:
        uids = ", ".join(one.uid for one in fits)
        raise errors.UserError(
            f"--series={shown}: '{folder}' has {len(fits)} series of this number; accepted: one "
            f"of the UIDs {uids}"
        )
    raise errors.UserError(
        f"--series={shown}: no such series in '{folder}'; accepted: {_list(found) or 'none'}"
    )


def _list(found: list[Series]) -> str:
    more = f"; and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    return "; ".join(one.describe() for one in found[:_MOST_LISTED]) + more


def _doubt(large: list[Series], contrast: str) -> tuple[str, ...]:
    """A sentence where the only series states another contrast."""
    if not large or not contrast or large[0].contrast.upper() in ("", contrast.upper()):
        return ()
    return (f"series {large[0].describe()}: it looks like no {contrast}, and is the only one",)


def _drop_copies(fits: list[Series]) -> list[Series]:
    """Series each once: a copy has its original's images, or their pixels, under another UID."""
    kept: list[Series] = []
    for one in fits:
        if not any(_is_copy(one, other) for other in kept):
            kept.append(one)
    return kept


def _is_copy(one: Series, other: Series) -> bool:
    if one.uids and one.uids <= other.uids:
        return True
    if (one.images, one.size, one.contrast) != (other.images, other.size, other.contrast):
        return False
    pixels = [{dicom_files.digest_pixels(path) for path in s.paths} for s in (one, other)]
    return None not in pixels[0] and pixels[0] == pixels[1]


def _describe(uid: str, headers: dict[epath.Path, pydicom.Dataset]) -> Series:
    first = next(iter(headers.values()))
    # Copies of a file are one image.
    images: dict[str, int] = {}
    for k, header in enumerate(headers.values()):
        name = str(header.get("SOPInstanceUID") or k)
        images[name] = _count(header)
    contrast, why = tag_rules.guess_contrast(first)
    return Series(
        uid=uid,
        number=messages.shorten(str(first.get("SeriesNumber") or "?"), 16),
        description=messages.shorten(str(first.get("SeriesDescription") or ""), 40),
        images=sum(images.values()),
        size=f"{first.get('Rows', '?')} x {first.get('Columns', '?')}",
        spacing=_spacing(first),
        no_scan=tag_rules.no_scan(first),
        contrast=contrast,
        why=why,
        uids=frozenset(images) if len(images) == len(headers) else frozenset(),
        paths=tuple(headers),
    )


def _count(header: pydicom.Dataset) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def _spacing(header: pydicom.Dataset) -> str:
    """Sides of a voxel as the header states them; `?` where it does not."""
    plane = header.get("PixelSpacing") or ("?", "?")
    between = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or "?"
    return messages.shorten(" x ".join(str(mm) for mm in (*plane, between)), 40)
