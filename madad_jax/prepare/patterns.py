"""Patterns of file paths and ids: compiled within bounds, and what to say when nothing fits.

A table comes from anyone, and a regular expression can take longer than anybody waits. So an
expression for an id or a person has at most 200 characters and three open repeats (`*`, `+`,
`{n,}`), none within another repeat, no alternatives within a repeat, and no reference back; a
pattern of files at most eight `*`; and no path of more than 1024 characters is matched.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from madad_jax.core import errors, messages

MOST_PATH = 1024
_MOST_LETTERS = 200
_MOST_OPEN = 3
_MOST_STARS = 8
_MANY = 64  # A repeat that may run so often is as good as open.
_TOKENS = re.compile(r"\*\*/|\*|\{id\}|\{nii\}")
# Suffixes come in capitals from other systems; names do not change their case on the way.
_NII = r"\.[nN][iI][iI](?:\.[gG][zZ])?"


def check_expression(text: Any, where: str) -> str:
    """`text`, if it is a regular expression that is matched in bounded time; see the module's text.

    Raises:
      UserError: another type, no regular expression, or one past the bounds.
    """
    if not isinstance(text, str):
        raise errors.UserError(
            f"'{where}': found {messages.shorten(repr(text))}, accepted: a regular expression in "
            "quotes"
        )
    if len(text) > _MOST_LETTERS:
        raise errors.UserError(
            f"'{where}': found {len(text)} characters, accepted: at most {_MOST_LETTERS}"
        )
    try:
        # As it will stand in `compile_path`, so that an unbalanced bracket is found here.
        re.compile(f"(?P<id>{text})")
        opened = _count_open(re._parser.parse(text), False, where)
    except (re.error, RecursionError, OverflowError) as error:
        raise errors.UserError(f"'{where}': no regular expression: {error}") from error
    if opened > _MOST_OPEN:
        raise errors.UserError(
            f"'{where}': found {opened} open repeats (* or +), accepted: at most {_MOST_OPEN}"
        )
    return text


def _count_open(parsed: Any, repeated: bool, where: str) -> int:
    """Open repeats of a parsed expression; refuses what can take exponential time."""
    count = 0
    for code, value in parsed:
        name = str(code)
        if "REPEAT" in name:
            low, high, inner = value
            many = int(high) >= _MANY
            if repeated and high > 1 and low != high:
                raise errors.UserError(
                    f"'{where}': found a repeat within a repeat, accepted: repeats side by side"
                )
            count += many + _count_open(inner, repeated or high > 1, where)
        elif name == "BRANCH":
            if repeated:
                raise errors.UserError(
                    f"'{where}': found alternatives (|) within a repeat, accepted: outside of one"
                )
            # One alternative is tried at a time.
            count += max(_count_open(one, repeated, where) for one in value[1])
        elif "GROUPREF" in name:
            raise errors.UserError(f"'{where}': found a reference to a group, accepted: none")
        elif isinstance(value, tuple):
            parts = [part for part in value if isinstance(part, re._parser.SubPattern)]
            count += sum(_count_open(part, repeated, where) for part in parts)
        elif isinstance(value, re._parser.SubPattern):
            count += _count_open(value, repeated, where)
    return count


def check_patterns(value: Any, where: str) -> tuple[str, ...]:
    """The patterns of a modality or mask; () for none.

    Raises:
      UserError: another type, no `{id}`, or more than eight `*`.
    """
    if value is None or value == "" or value == []:
        return ()
    patterns = tuple(value) if isinstance(value, list) else (value,)
    for pattern in patterns:
        if not isinstance(pattern, str) or "{id}" not in pattern:
            raise errors.UserError(
                f"'{where}': found {messages.shorten(repr(pattern))}, accepted: a pattern that "
                "contains {id}"
            )
        if pattern.count("*") > _MOST_STARS or len(pattern) > MOST_PATH:
            raise errors.UserError(
                f"'{where}': found {messages.shorten(pattern)}, accepted: at most {_MOST_STARS} * "
                f"and {MOST_PATH} characters"
            )
    return patterns


def compile_path(pattern: str, scan_id: str, *, any_case: bool = False) -> re.Pattern:
    """A pattern with `*`, `**/`, `{id}` and `{nii}` as a regular expression of the whole path."""
    parts, position, seen = [], 0, False
    for token in _TOKENS.finditer(pattern):
        parts.append(re.escape(pattern[position : token.start()]))
        position = token.end()
        if token[0] == "{id}":
            # The first place captures the id, the others must hold the same text.
            parts.append("(?P=id)" if seen else f"(?P<id>{scan_id})")
            seen = True
        else:
            parts.append({"**/": "(?:.*/)?", "*": "[^/]*", "{nii}": _NII}[token[0]])
    parts.append(re.escape(pattern[position:]))
    return re.compile("".join(parts), re.IGNORECASE if any_case else 0)


def explain_nothing(patterns: Sequence[str], scan_id: str, paths: Sequence[str]) -> str:
    """What is there instead of what was looked for: a path and the pattern nearest to it.

    Args:
      patterns: that were looked for.
      scan_id: regular expression of an id.
      paths: below the folder, of files and (ending in /) folders.
    """
    scans = [path for path in paths if re.search(f"{_NII}$", path)]
    files = scans or [path for path in paths if not path.endswith("/")]
    if not files:
        return "found no file at all"
    for pattern in patterns:
        for path in files:
            if compile_path(pattern, scan_id, any_case=True).fullmatch(path):
                return f"found '{messages.shorten(path)}', which '{pattern}' fits but for its case"
    path = files[0]
    plain = [pattern.replace("{nii}", ".nii.gz").replace("**/", "") for pattern in patterns]
    ratios = [difflib.SequenceMatcher(None, path, text).ratio() for text in plain]
    near = patterns[ratios.index(max(ratios))] if patterns else ""
    return f"found '{messages.shorten(path)}' and {len(files) - 1} more, nearest to '{near}'"
