"""A mark for every slice of a split: equal while the slice is, wherever its folder lies.

Unlike `Source.fingerprint` it holds no time of change and no path, so that a copy of the slices
has the same marks. PNG files are marked by their sizes, which cost one question each to the file
system; packed slices by sizes and content of some of them, as they have to be read; drawn ones by
all that they are drawn from. Slices that were packed between two looks are compared by sizes.
"""

import hashlib
import zlib
from typing import Any

_READ_AT_MOST = 256  # packed slices: 8 MB of pictures of 256 pixels


def list_marks(source: Any) -> dict[str, str]:
    """{id of the slice: mark}; "" for a slice whose content was not looked at.

    Args:
      source: a `sources.record.Source`.

    Raises:
      UserError: a packed slice cannot be read.
    """
    names = [record.id for record in source.records]
    if hasattr(source, "file_sizes"):
        return dict(zip(names, source.file_sizes(), strict=True))
    if hasattr(source, "read_encoded"):
        # By a digest of the names: a slice that is added changes the choice by one.
        order = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
        marks = dict.fromkeys(names, "")
        for i in order[:_READ_AT_MOST]:
            found = source.read_encoded(i)
            content = zlib.crc32(found.brain_mask.content, zlib.crc32(found.image.content))
            sizes = f"{len(found.image.content)}+{len(found.brain_mask.content)}"
            marks[names[i]] = f"{sizes}:{content:08x}"
        return marks
    return dict.fromkeys(names, source.fingerprint()[:16])


def differ(then: str, now: str) -> bool:
    """Whether two marks are of different slices; one of a slice that was not looked at tells
    nothing."""
    if not then or not now:
        return False
    pairs = zip(then.split(":"), now.split(":"), strict=False)  # sizes, and content where known
    return any(one != other for one, other in pairs)
