"""What MkDocs needs to show pages that are written for a plain checkout.

Pages link to files beside `docs/` (results, sources, launch scripts). Those files join the site
under `repository/`, with the files that they link to in turn, and links are turned to them. Lists
that follow a line of text get the blank line that Python-Markdown asks for.
"""

import pathlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
INSIDE = "repository"  # folder of the site for files of the checkout
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^(?:[-*] |\d+\. )")


def repository_path(page: str, target: str) -> str | None:
    """The checkout's path of a page's link; None for the network, and for what is not there.

    Args:
      page: path of the page below the checkout.
      target: of the link, without its anchor.
    """
    if re.match(r"[a-z]+:", target):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return path if (ROOT / path).is_file() else None


def site_path(path: str) -> str:
    """Where a file of the checkout lies in the site's sources."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{INSIDE}/{path}"


def list_links(text: str) -> list[str]:
    """Targets of the links of a page, code blocks aside."""
    return [match[2] for line, code in lines(text) if not code for match in _LINK.finditer(line)]


def lines(text: str) -> list[tuple[str, bool]]:
    """(line, whether it is code) of a page."""
    found, code = [], False
    for line in text.split("\n"):
        fence = _FENCE.match(line) is not None
        found.append((line, code or fence))
        code ^= fence
    return found


def turn_links(text: str, page: str) -> str:
    """The page with its links where the site has the files."""
    here = posixpath.dirname(site_path(page))

    def turn(match: re.Match) -> str:
        path = repository_path(page, match[2])
        if path is None:
            return match[0]
        return (
            f"{match[1]}{posixpath.relpath(site_path(path), here or '.')}{match[3] or ''}{match[4]}"
        )

    return "\n".join(line if code else _LINK.sub(turn, line) for line, code in lines(text))


def part_lists(text: str) -> str:
    """The page with a blank line before each list that follows text."""
    out: list[str] = []
    for line, code in lines(text):
        before = out[-1] if out else ""
        if not code and _ITEM.match(line) and before.strip() and before[0] not in "-*0123456789 |":
            out.append("")
        out.append(line)
    return "\n".join(out)


def menu_files(nav: Any) -> list[str]:
    """Files of the checkout, outside `docs/`, that stand in the menu itself."""
    if isinstance(nav, str):
        return [nav.removeprefix(f"{INSIDE}/")] if nav.startswith(f"{INSIDE}/") else []
    entries = nav.values() if isinstance(nav, dict) else nav
    return [path for entry in entries for path in menu_files(entry)]


def collect(pages: list[str], more: Sequence[str] = ()) -> list[str]:
    """Files of the checkout, outside `docs/`, that the pages need; Markdown is followed.

    Args:
      pages: paths below the checkout.
      more: files that are needed for themselves.
    """
    found: dict[str, None] = dict.fromkeys(more)
    waiting = [*pages, *more]
    while waiting:
        page = waiting.pop()
        for target in list_links((ROOT / page).read_text()):
            path = repository_path(page, target)
            if path and not path.startswith("docs/") and path not in found:
                found[path] = None
                waiting += [path] if path.endswith(".md") else []
    return list(found)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' event: adds the files beside `docs/`."""
    from mkdocs.structure import files as files_lib

    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in collect(pages, menu_files(config.nav)):
        added = files_lib.File.generated(config, site_path(path), abs_src_path=str(ROOT / path))
        # They are no part of the menu, which is said here so that `--strict` does not mind.
        added.inclusion = files_lib.InclusionLevel.NOT_IN_NAV
        files.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs' event: a page's text as Python-Markdown wants it."""
    del config, files
    path = page.file.src_uri
    source = path.removeprefix(f"{INSIDE}/") if path.startswith(f"{INSIDE}/") else f"docs/{path}"
    return part_lists(turn_links(markdown, source))
