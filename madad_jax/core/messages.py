"""Words of a file in messages: with a bound, and nothing that a terminal obeys."""

from typing import Any

_MOST = 80  # About a line; what follows says how much was left out.


def shorten(value: Any, most: int = _MOST) -> str:
    """`value` as text of at most `most` characters; newlines and escapes are written out.

    For whatever came out of a file (a name, a number, a list) and goes into a message or a table.
    """
    # A list of a file can hold millions: only its start is turned into text.
    if isinstance(value, (list, tuple)) and len(value) > most:
        kind = "list" if isinstance(value, list) else "tuple"
        return shorten(f"{kind} of {len(value)}, first {value[:3]!r}", most)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"  # str() of more digits is an error.
    text = value if isinstance(value, str) else str(value)
    left = len(text) - most
    kept = text if left <= 0 else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in kept)
