"""How the package is laid out, in figures: rooms, readers of the config, names, comments.

    python -m benchmarks.house [ROOT]

`tests/test_house.py` holds the bars. What each figure counts stands beside its function.
"""

import ast
import collections
import io
import pathlib
import sys
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "madad_jax"
# What `experiment` may read beside `assembly`, which reads everything.
NAMES_AND_FOLDERS = ("config.name",)
# Methods of a ConfigDict, which are no keys.
_METHODS = {
    "copy_and_resolve_references",
    "get",
    "items",
    "keys",
    "lock",
    "to_dict",
    "to_json",
    "unlock",
    "unlocked",
    "update",
    "values",
}
_TESTS_OF_NAMES = ("__init__.py", "__main__.py")  # names that the language asks for


def files(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """The package's files."""
    return sorted((root / PACKAGE).rglob("*.py"))


def room(path: pathlib.Path, root: pathlib.Path = ROOT) -> str:
    """The room of a file; "" for those in the package's root."""
    parts = path.relative_to(root / PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def root_entries(root: pathlib.Path = ROOT) -> int:
    """Files and folders in the package's root, without the empty mark of typed packages."""
    left_out = ("__pycache__", "py.typed")
    return sum(p.name not in left_out for p in (root / PACKAGE).iterdir())


def room_lines(root: pathlib.Path = ROOT) -> dict[str, int]:
    """{room: lines of its files}."""
    lines: dict[str, int] = collections.Counter()
    for path in files(root):
        lines[room(path, root)] += path.read_text().count("\n")
    return dict(lines)


def key_reads(source: str) -> list[str]:
    """Keys that a module reads of a value named `config`: attributes, and string subscripts."""
    found = []
    for node in ast.walk(ast.parse(source)):
        value = getattr(node, "value", None)
        named = isinstance(value, ast.Name) and value.id == "config"
        held = isinstance(value, ast.Attribute) and value.attr == "config"  # run.config.data
        if not (named or held):
            continue
        if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
            found.append(f"config.{node.attr}")
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.append(f"config[{node.slice.value!r}]")
    return found


def config_readers(root: pathlib.Path = ROOT) -> dict[str, list[str]]:
    """{file: keys} that are read outside `assembly`, names and folders in `experiment` aside.

    Not counted are the tables that converters infer from somebody's weights, which are named
    config there and are no ConfigDict.
    """
    found = {}
    for path in files(root):
        reads = key_reads(path.read_text())
        if room(path, root) == "experiment":
            reads = [key for key in reads if key not in NAMES_AND_FOLDERS]
        if reads and room(path, root) not in ("assembly", "convert"):
            found[str(path.relative_to(root))] = reads
    return found


def untyped_configs(root: pathlib.Path = ROOT) -> list[str]:
    """Parameters named config that are typed `Any` or not at all."""
    found = []
    for path in files(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                    typed = ast.unparse(arg.annotation) if arg.annotation else "Any"
                    if arg.arg == "config" and typed == "Any":
                        found.append(f"{path.relative_to(root)}:{node.lineno} {node.name}")
    return found


def repeated_names(root: pathlib.Path = ROOT) -> dict[str, list[str]]:
    """{file name: places} of names that occur twice in package, configs and benchmarks.

    A config that is named for its method, and a rival's program, are meant to have the name.
    """
    places = collections.defaultdict(list)
    for folder in (PACKAGE, "configs", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            relative = str(path.relative_to(root))
            mirrors = relative.startswith(("configs/baselines/", "benchmarks/speed/"))
            if path.name not in _TESTS_OF_NAMES and not mirrors:
                places[path.name].append(relative)
    return {name: where for name, where in places.items() if len(where) > 1}


def comments(source: str) -> int:
    """Lines of a module that hold a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({t.start[0] for t in tokens if t.type == tokenize.COMMENT})


def comment_share(root: pathlib.Path = ROOT, name: str | None = None) -> float:
    """Comment lines of the package, or of a room, over a hundred lines."""
    sources = [p.read_text() for p in files(root) if name is None or room(p, root) == name]
    return 100 * sum(map(comments, sources)) / max(1, sum(s.count("\n") for s in sources))


def longest_functions(root: pathlib.Path = ROOT, count: int = 3) -> list[tuple[int, str]]:
    """(lines without the docstring, where) of the longest functions."""
    found = []
    for path in files(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node):
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                found.append((lines, f"{path.relative_to(root)} {node.name}"))
    return sorted(found, reverse=True)[:count]


def main() -> None:
    """Prints every figure."""
    root = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    lines = room_lines(root)
    total = sum(lines.values())
    print(f"entries in {PACKAGE}/: {root_entries(root)}")
    print(f"files: {len(files(root))}, lines: {total:,}")
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        share = comment_share(root, name)
        part = 100 * count / total
        print(f"  {name or '(root)':14} {count:6,} {part:5.1f} %  {share:4.1f} comments")
    readers = config_readers(root)
    print(f"files that read config keys outside assembly: {len(readers)}")
    for file, keys in readers.items():
        print(f"  {file}: {', '.join(sorted(set(keys)))}")
    print(f"parameters named config typed Any: {len(untyped_configs(root))}")
    names = repeated_names(root)
    print(f"file names used twice: {len(names)} ({', '.join(sorted(names))})")
    print(f"comment lines in 100: {comment_share(root):.2f}")
    for count, where in longest_functions(root):
        print(f"long function: {count} lines, {where}")


if __name__ == "__main__":
    main()
