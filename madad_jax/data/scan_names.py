"""Names of scans, safe wherever they stand: as a folder, in a table, on a page, in a terminal.

A file may be called anything: like a formula, like the table itself, like another file on a disk
that does not tell capitals apart, or with an escape sequence inside.
"""

import collections
import hashlib
import os
import re
import unicodedata

from madad_jax.core import messages

TABLE, CANDIDATES = "scans.csv", "candidates.tsv"
# Image files that `scans.volumes` reads.
IMAGES = (".nii.gz", ".nii", ".mgz", ".mgh.gz", ".mgh", ".nrrd", ".mha")
_MOST_BYTES = 150  # File systems take 255 of a name; tables and temporary files add to it.
# A spreadsheet computes cells that begin so, some after blanks and in wide letters too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def output_names(paths: list[str]) -> list[str]:
    """A folder's name for each file or folder below the input, all different.

    Letters and digits of any script stay, as do `.`, `_`, `-`, `+` and blanks inside; everything
    else becomes `_`. Names that would fall together get eight digits of their path's digest.
    """
    names = [_safe(stem(path)) for path in paths]
    for _ in range(3):  # A file may be called like another with its digits.
        count = collections.Counter(_key(name) for name in names)
        names = [
            name if count[_key(name)] == 1 else f"{name}-{_digest(path)}"
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def stem(name: str) -> str:
    """A name without the ending of image files and archives."""
    for ending in (*IMAGES, ".zip"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def show(path: str) -> str:
    """The last part of a path, for people: without the folders, one of which may name a person."""
    return messages.shorten(os.path.basename(path.rstrip("/")) or path, 200)


def make_cell(value: object) -> object:
    """A value of a table, which no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = messages.shorten(value, 4000)
    try:
        float(text)
    except ValueError:
        plain = unicodedata.normalize("NFKC", text).lstrip()
        return "'" + text if plain.startswith(_FORMULA) else text
    return text


def _safe(path: str) -> str:
    # One form of letters with marks: file systems differ in it.
    text = unicodedata.normalize("NFC", path).replace("/", "_")
    text = re.sub(r"[^\w .+-]", "_", text)
    text = re.sub(r"^[.+\- ]+|[. ]+$", "_", text) or "_"
    if len(text.encode()) > _MOST_BYTES:
        kept = text.encode()[: _MOST_BYTES - 9].decode(errors="ignore")
        text = f"{kept}-{_digest(path)}"
    low = text.casefold()
    # `.new` is what half-written files are called, and the tables have their places.
    odd = low.startswith((TABLE, CANDIDATES)) or low.endswith(".new")
    return f"{text}_scan" if odd else text


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8]
