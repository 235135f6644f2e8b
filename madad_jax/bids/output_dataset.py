"""The derived data set as a whole: description, README, and what the validator shall pass over.

Several jobs may write one data set at a time, a person each: all write the same bytes.
"""

import json
import logging
import os
from typing import Any

from etils import epath

from madad_jax.bids import entities, raw_dataset
from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.core.version import VERSION

_LOG = logging.getLogger(__name__)
_GENERATOR = "madad_jax"
RAW = "raw"  # the name of the source data set in URIs: bids:raw:sub-01/...
# Pages, pictures, tables and records, for which BIDS has no names.
_IGNORED = (
    *("*.html", "figures", "group_*", "*_summary.json", "*_failed.json", "*_xfm.*"),
    *("*.new", "*.lock"),
)
_README = """# Anomaly maps

Made by madad_jax {version} from images of the contrast {contrast}. Research software, not a medical
device.

- `sub-*/[ses-*/]anat/*_desc-anomaly_probseg.nii.gz`: the anomaly map, 0 to 1, on the image's grid
- `*_desc-anomaly_mask.nii.gz`: what lies above the threshold
- `*_desc-reconstruction_{suffix}.nii.gz`: the image as the model would have it
- `*_{suffix}_summary.json`: everything about a result; `*_{suffix}_failed.json`: why there is none
- `sub-*.html`, `sub-*/figures/`: a page and a picture for each image
- `group_{suffix}.tsv`, `index.html`: all images, after the analysis level `group`

Side-cars hold threshold, operating point, calibration, model digest and sources.
"""


def begin(out: epath.Path, dataset: raw_dataset.Dataset, contrast: str) -> None:
    """Writes what belongs to the whole data set, unless it stands there.

    Args:
      out: its folder: new, empty, or of this program and contrast.
      dataset: the source.
      contrast: of the model; of several, as T1,FLAIR.

    Raises:
      UserError: a folder of something else, or one that cannot be written.
    """
    if os.path.realpath(out) == os.path.realpath(dataset.root):
        raise errors.UserError(
            f"output_dir={out}: found bids_dir itself; accepted: another folder, as "
            f"{dataset.root}/derivatives/madad_jax"
        )
    before = _read_description(out)
    if before is not None and before.get("Contrast") != contrast:
        raise errors.UserError(
            f"output_dir={out}: holds results of the contrast "
            f"'{messages.shorten(before.get('Contrast'))}', the model's is '{contrast}'; accepted: "
            "a folder for each contrast, whose files would have the same names"
        )
    suffix = entities.suffix(contrast)
    readme = _README.format(version=VERSION, contrast=contrast, suffix=suffix)
    files = {
        raw_dataset.DESCRIPTION: json.dumps(describe(out, dataset, contrast), indent=1) + "\n",
        "README": readme,
        ".bidsignore": "\n".join(_IGNORED) + "\n",
    }
    for name, text in files.items():
        path = out / name
        if not path.exists() or path.read_text() != text:
            atomic_files.write_text(path, text)


def read_contrast(out: epath.Path) -> str:
    """The contrast of the results in a data set of this program.

    Raises:
      UserError: no such data set.
    """
    about = _read_description(out)
    contrast = None if about is None else about.get("Contrast")
    if not isinstance(contrast, str) or not {*contrast.split(",")} <= {*entities.SUFFIXES}:
        raise errors.UserError(
            f"output_dir={out}: no results in it; run the analysis level 'participant' first"
        )
    return contrast


def describe(out: epath.Path, dataset: raw_dataset.Dataset, contrast: str) -> dict[str, Any]:
    """What `dataset_description.json` says; nothing is made up, authors are left to people."""
    name = dataset.about.get("Name")
    found: dict[str, Any] = {
        "Name": f"Anomaly maps of {messages.shorten(name)}" if name else "Anomaly maps",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _GENERATOR, "Version": VERSION}],
        "Contrast": contrast,
    }
    if isinstance(licence := dataset.about.get("License"), str):
        found["License"] = licence
    doi = dataset.about.get("DatasetDOI")
    url = f"https://doi.org/{doi.removeprefix('doi:')}" if isinstance(doi, str) else ""
    if url:
        found["SourceDatasets"] = [{"URL": url}]
    if link := _find_link(out, dataset.root) or url:
        found["DatasetLinks"] = {RAW: link}
    else:
        _LOG.warning(
            "the way from output_dir to bids_dir is not written, as it names folders outside of "
            "both; DatasetLinks.%s of %s is where it belongs",
            *(RAW, raw_dataset.DESCRIPTION),
        )
    return found


def _find_link(out: epath.Path, root: epath.Path) -> str:
    """The relative path to the source, if no name in it is of a folder above the source's own."""
    way = os.path.relpath(os.path.realpath(root), os.path.realpath(out))
    names = [part for part in way.split(os.sep) if part != ".."]
    # Folders further up may be called by a person, a project or a machine.
    return way if len(names) <= 1 else ""


def _read_description(out: epath.Path) -> dict[str, Any] | None:
    """The description that this program has written; None in a new or empty folder.

    Raises:
      UserError: the folder is something else.
    """
    path = out / raw_dataset.DESCRIPTION
    if path.exists():
        about = json_file.read_object(path)
        makers = about.get("GeneratedBy")
        if isinstance(makers, list) and any(
            isinstance(maker, dict) and maker.get("Name") == _GENERATOR for maker in makers
        ):
            return about
    elif not out.exists() or not [p for p in out.iterdir() if not p.name.startswith(".")
                                  and not p.name.endswith(".new")]:  # fmt: skip
        return None
    raise errors.UserError(
        f"output_dir={out}: found something that madad_jax has not made; accepted: a new or empty "
        "folder, or one of its own"
    )
