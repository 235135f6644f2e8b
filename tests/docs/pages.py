"""The pages, their prose, their blocks of code and the commands in these."""

import dataclasses
import importlib.util
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# What a block of commands may need that a test does not have.
NEEDS = ("data", "minutes", "network", "cluster", "gpu", "docker", "apptainer")
_MARK = re.compile(r"<!-- needs: (\w+) -->")
_SHELL = ("", "bash", "sh", "console")


def load(name):
    """A program of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages():
    """README, and the pages of docs/."""
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def readmes():
    """Pages of other folders that readers of the site meet too."""
    return [ROOT / f"{folder}/README.md" for folder in ("launch", "benchmarks", "containers")]


def name(path):
    return path.relative_to(ROOT).as_posix()


@dataclasses.dataclass(frozen=True)
class Block:
    """Commands of a fenced block, one an entry, and what the mark before it says it needs."""

    page: str
    line: int
    needs: str | None
    commands: tuple[str, ...]

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(text, page=""):
    """The blocks of commands of a page."""
    found, inside, start, rows = [], None, 0, []
    lines = text.split("\n")
    for i, line in enumerate(lines):
        fence = re.match(r"\s*```(\w*)\s*$", line)
        if fence and inside is None:
            inside, start, rows = fence[1], i, []
        elif fence:
            if inside in _SHELL:
                mark = _MARK.fullmatch(lines[start - 1].strip()) if start else None
                needs = mark[1] if mark else None
                found.append(Block(page, start + 1, needs, tuple(commands(rows))))
            inside = None
        elif inside is not None:
            rows.append(line.strip())
    return found


def commands(rows):
    """Command lines: continued lines joined, comments gone, `a && b` in two."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(rows))
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.split("\n"))
    return [part.strip() for line in lines if line for part in line.split("&&")]


def words(command):
    return shlex.split(command)


def all_blocks():
    every = [*pages(), *readmes()]
    return [block for path in every for block in blocks(path.read_text(), name(path))]


def prose(text):
    """Paragraphs of a page, without code, tables, marks, headings and targets of links."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    kept = []
    for line in text.split("\n"):
        if re.match(r"\s*(\||#|!!!)", line):
            kept.append("")
        else:
            kept.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "\n", line))
    return [
        " ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(kept)) if part.strip()
    ]


def sentences(text):
    """The sentences of a page's prose."""
    found = []
    for paragraph in prose(text):
        found += re.split(r"(?<=[.!?:])(?:\*\*)?[)\"]?\s+(?=[A-Z0-9`*\"(\[])", paragraph)
    return found


def count(sentence):
    """Words of a sentence: what has a letter or a digit."""
    return sum(any(ch.isalnum() for ch in word) for word in sentence.split())


def anchors(text):
    """Anchors of a page's headings, as GitHub and the site name them."""
    found = []
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n"):
        heading = re.match(r"#+\s+(.*)", line)
        if heading:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            found.append(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found
