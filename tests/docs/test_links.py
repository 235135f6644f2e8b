"""Links of the pages lead somewhere: files, anchors, and the menu of the site."""

import posixpath
import re

import pytest

from tests.docs import pages

_LINK = re.compile(r"(?:\]\(|<img src=\")([^)\s\"]+)")
MORE = ("CONTRIBUTING.md", "CHANGELOG.md")
ALL = [*pages.pages(), *pages.readmes(), *(pages.ROOT / more for more in MORE)]
hooks = pages.load("site_hooks")


def broken(text, page):
    """Targets of a page that are not there."""
    found = []
    for target in _LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = pages.ROOT / (
            posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        )
        heads = text if not path else file.read_text() if anchor and file.is_file() else ""
        if (path and not file.exists()) or (anchor and anchor not in pages.anchors(heads)):
            found.append(target)
    return found


@pytest.mark.parametrize("path", ALL, ids=pages.name)
def test_links_lead_somewhere(path):
    assert broken(path.read_text(), pages.name(path)) == []


def test_a_broken_link_is_seen():
    text = "# One (two)\n[a](gone.md) [b](faq.md#gone) [c](#one-two) [d](https://x.y) [e](api.md)\n"
    text += '<img src="gone.png" width="9">\n'
    assert broken(text, "docs/x.md") == ["gone.md", "faq.md#gone", "gone.png"]


def test_every_page_is_in_the_menu_and_every_entry_is_a_page():
    menu = re.findall(r": ([\w/]+\.md)$", (pages.ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    mine = {entry for entry in menu if not entry.startswith(hooks.INSIDE)}
    assert mine == {path.name for path in pages.DOCS.glob("*.md")}
    for entry in set(menu) - mine:
        assert (pages.ROOT / entry.removeprefix(f"{hooks.INSIDE}/")).is_file()


def test_the_site_takes_files_from_beside_the_pages():
    text = "[x](../benchmarks/results/demo.md#results-test) [y](faq.md)\n```\n[z](../LICENSE)\n```"
    turned = hooks.turn_links(text, "docs/index.md")
    assert "(repository/benchmarks/results/demo.md#results-test)" in turned
    assert "(faq.md)" in turned and "(../LICENSE)" in turned
    back = hooks.turn_links("[p](../../docs/demo_panel.png)", "benchmarks/results/demo.md")
    assert back == "[p](../../../demo_panel.png)"
    taken = hooks.collect(["docs/quickstart.md"])
    assert "benchmarks/results/demo.md" in taken and not any(p.startswith("docs/") for p in taken)


def test_lists_get_the_line_that_the_site_needs():
    assert hooks.part_lists("text:\n- a\n- b\n  more\n- c") == "text:\n\n- a\n- b\n  more\n- c"
    assert hooks.part_lists("```\nx\n- a\n```") == "```\nx\n- a\n```"
