"""Which heads train, which choose and which test, and the tables that `prepare` reads.

By the last digit of the number in a head's id: 0 is kept out of everything, 1 is validation, 2 is
test, and the rest trains. Heads of other people may bring a CSV of splits and their own table.
"""

import csv
import io
import pathlib
import re
from typing import Any

import yaml
from etils import epath

from benchmarks import paint_lesions
from madad_jax.core import atomic_files, errors
from madad_jax.prepare import splits as splits_lib

TABLE = {
    "title": "IXI T1 heads",
    "licence": "CC BY-SA 3.0 (brain-development.org/ixi-dataset)",
    "cite": "IXI, Imperial College London, brain-development.org/ixi-dataset",
    "healthy": True,
    "id": r"IXI\d{3}-[A-Za-z]+-\d{4}",
    "person": r"IXI\d{3}",
    "images": {"T1": "{id}{nii}"},
    "options": {"registration": "affine", "brain_mask": "builtin"},
}
_BY_DIGIT = {"1": "val", "2": "test"}


def split_of(name: str) -> str:
    """`train`, `val`, `test`, or "" for a head that is kept out.

    Args:
      name: of the head, whose first number decides: `IXI012-HH-1211` is a 2.

    Raises:
      UserError: a name without a number.
    """
    found = re.search(r"\d+", name)
    if not found:
        raise errors.UserError(
            f"'{name}': no number in the name; accepted: names as IXI012-HH-1211, or --splits"
        )
    digit = found[0][-1]
    return "" if digit == "0" else _BY_DIGIT.get(digit, "train")


def split_heads(names: list[str], lists: dict[str, str] | None = None) -> dict[str, str]:
    """{head: split} of those that are used.

    Args:
      names: of the heads.
      lists: {head: split} in place of the numbers' rule; heads that it lacks are kept out.

    Raises:
      UserError: no head of a split.
    """
    made = {name: lists.get(name, "") if lists is not None else split_of(name) for name in names}
    used = {name: split for name, split in made.items() if split}
    for split in splits_lib.SPLITS:
        if split not in used.values():
            raise errors.UserError(
                f"no head for '{split}'; by the last digit of a head's number 1 is val, 2 is test, "
                "3 to 9 train; --splits=FILE.csv says otherwise"
            )
    return used


def read_splits(heads: pathlib.Path, file: str) -> dict[str, str]:
    """{head: split} of a folder of heads; `file` as `prepare --splits` takes it, or "".

    Raises:
      UserError: no head, a damaged file, or no head of a split.
    """
    names = list(paint_lesions.find_heads(heads, heads, ""))
    return split_heads(names, splits_lib.read_lists(file) if file else None)


def splits_csv(splits: dict[str, str]) -> bytes:
    """The table that `prepare --splits` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("subject", "split"))
    writer.writerows(sorted(splits.items()))
    return text.getvalue().encode()


def paint_table(table: Any) -> dict:
    """The table of painted heads, from that of the healthy ones.

    Raises:
      UserError: no table with images.
    """
    if not isinstance(table, dict) or not isinstance(table.get("images"), dict):
        raise errors.UserError("--cohort_file: no 'images'; accepted: a table as of prepare")
    # Painted files lie in one flat folder, whatever the healthy ones' pattern is.
    return {
        **table,
        "title": f"{table.get('title', 'Heads')} with painted lesions",
        "healthy": False,
        "images": {contrast: "{id}{nii}" for contrast in table["images"]},
        "segmentation": "{id}_lesions{nii}",
    }


def write(folder: pathlib.Path, splits: dict[str, str], table: dict) -> None:
    """Splits and tables of healthy and of painted heads."""
    files = {"splits.csv": splits_csv(splits)}
    for split in ("val", "test"):
        mine = [name for name, into in splits.items() if into == split]
        # Prepared as test: only there may lesions be. `join` gives the split its name.
        files[f"painted_{split}.csv"] = splits_csv(dict.fromkeys(mine, "test"))
    for name, values in (("healthy", table), ("painted", paint_table(table))):
        files[f"{name}.yaml"] = yaml.safe_dump(values, sort_keys=False).encode()
    for name, content in files.items():
        atomic_files.write_bytes(epath.Path(folder) / name, content)


def choose_ids(splits: dict[str, str], split: str) -> str:
    """A pattern for `paint_lesions --ids` that finds the heads of a split and no other."""
    return f"^({'|'.join(re.escape(name) for name in sorted(splits) if splits[name] == split)})$"
