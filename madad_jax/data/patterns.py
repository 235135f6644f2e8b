"""Patterns of file paths and ids: compiled within bounds, and what to say when nothing fits.

A table comes from anyone, and a regular expression can take longer than anybody waits. So an
expression for an id or a person has at most 200 characters and three open repeats (`*`, `+`,
`{n,}`), none within another repeat, no alternatives within a repeat, and no reference back; a
pattern of files at most eight `*`; and no path of more than 1024 characters is matched. A repeat
of one character up to a separator that it cannot hold (`[^-]+-`, `\\d+\\.`) has one end alone: it
is free, within another repeat too.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from madad_jax.core import errors, messages

MOST_PATH = 1024
_DEEPEST = 12  # Folders below the root; a link that leads in a circle ends there.
_MOST_LETTERS = 200
_MOST_OPEN = 3
_MOST_STARS = 8
_MANY = 64  # A repeat that may run so often is as good as open.
_FLAGS = re.compile(r"\A\(\?([aimsx]+)\)(.*)\Z", re.DOTALL)
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
_TOKENS = re.compile(r"\*\*/|\*|\{id\}|\{nii\}")
# Suffixes come in capitals from other systems; names do not change their case on the way.
_NII = r"\.[nN][iI][iI](?:\.[gG][zZ])?"


def check_expression(text: Any, where: str) -> str:
    """`text`, if it is a regular expression that is matched in bounded time; see the module's text.

    Flags at its start (`(?i)`) come back around it, since it will stand within a longer one.

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
    text = _FLAGS.sub(r"(?\1:\2)", text)
    try:
        # As it will stand in `compile_path`, so that an unbalanced bracket is found here.
        re.compile(f"(?P<id>{text})")
        opened = _count_open(re._parser.parse(text), False, where)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise errors.UserError(f"'{where}': no regular expression: {error}") from error
    if opened > _MOST_OPEN:
        raise errors.UserError(
            f"'{where}': found {opened} open repeats (* or +), accepted: at most {_MOST_OPEN}"
        )
    return text


def _count_open(parsed: Any, repeated: bool, where: str, after: Any = None) -> int:
    """Open repeats of a parsed expression; refuses what can take exponential time.

    Args:
      parsed: of `re`'s own parser.
      repeated: whether it stands within a repeat.
      where: for messages.
      after: what is matched behind it, parsed; None for anything.
    """
    count = 0
    followers = [*list(parsed)[1:], after]
    for (code, value), follower in zip(parsed, followers, strict=True):
        name = str(code)
        if "REPEAT" in name:
            count += _count_repeat(value, repeated, where, follower)
        elif name == "BRANCH":
            if repeated:
                raise errors.UserError(
                    f"'{where}': found alternatives (|) within a repeat, accepted: outside of one"
                )
            # One alternative is tried at a time.
            count += max(_count_open(one, repeated, where, follower) for one in value[1])
        elif "GROUPREF" in name:
            raise errors.UserError(f"'{where}': found a reference to a group, accepted: none")
        else:
            behind = follower if name == "SUBPATTERN" else None  # not of what only looks
            parts = value if isinstance(value, tuple) else (value,)
            for part in parts:
                if isinstance(part, re._parser.SubPattern):
                    count += _count_open(part, repeated, where, behind)
    return count


def _count_repeat(value: Any, repeated: bool, where: str, after: Any) -> int:
    low, high, inner = value
    if _has_one_end(inner, after):
        return 0
    if repeated and high > 1 and low != high:
        raise errors.UserError(
            f"'{where}': found a repeat within a repeat, accepted: repeats side by side"
        )
    return (int(high) >= _MANY) + _count_open(inner, repeated or high > 1, where)


def _has_one_end(inner: Any, after: Any) -> bool:
    """Whether what is repeated is one character, and the literal behind it another."""
    if after is None or len(inner) != 1 or str(after[0]) != "LITERAL":
        return False
    separator = chr(after[1])
    # Letters may stand for one another where case does not count.
    if not separator.isascii() or separator.isalpha():
        return False
    code, value = str(inner[0][0]), inner[0][1]
    if code == "IN":
        negate = str(value[0][0]) == "NEGATE"
        held = any(_holds(str(kind), what, separator) for kind, what in value[negate:])
        return held == negate
    if code == "NOT_LITERAL":
        return chr(value) == separator
    return code == "LITERAL" and chr(value) != separator


def _holds(kind: str, what: Any, letter: str) -> bool:
    """Whether an entry of a parsed set of characters holds a letter."""
    if kind == "RANGE":
        return what[0] <= ord(letter) <= what[1]
    if kind == "CATEGORY":
        words = str(what).split("_")  # CATEGORY_NOT_DIGIT
        found = bool(re.fullmatch(_CATEGORIES[words[-1]], letter))
        return found != ("NOT" in words)
    return kind != "LITERAL" or what == ord(letter)


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


def walk(folder: epath.Path, inside: str = "", depth: int = 0) -> Iterator[tuple[str, bool]]:
    """(path below the root, whether it is a folder; folders end in /), in the order of names."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        # What systems and programs leave behind, our own `.prepare` among them.
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield f"{inside}{path.name}/", True
            if depth < _DEEPEST:
                yield from walk(path, f"{inside}{path.name}/", depth + 1)
        else:
            yield f"{inside}{path.name}", False


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
