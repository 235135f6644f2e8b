"""The site builds without a warning and asks the network for nothing."""

import re
import subprocess
import sys

import pytest

from tests.docs import pages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is in requirements-docs.txt: make docs")
    pytest.importorskip("material", reason="mkdocs-material is in requirements-docs.txt")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=pages.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_built(site):
    for path in pages.DOCS.glob("*.md"):
        assert (site / f"{path.stem}.html").is_file()
    assert (site / "repository/benchmarks/results/demo.html").is_file()


def test_nothing_comes_from_the_network(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\" >]+)", text
        )
        assert [url for url in fetched if "canonical" not in url] == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)[\s\"']*https?:", path.read_text()), path
