"""The files of one image's result, under the names of a derived data set.

The order of writing is that of `predict`: while `*_summary.json` is missing, the set is not whole.
"""

import dataclasses
import os

from etils import epath

from madad_jax.bids import entities, raw_dataset, sidecars
from madad_jax.core import atomic_files, messages
from madad_jax.predict import montage, page, spaces
from madad_jax.predict import result as result_lib
from madad_jax.scans import volumes

SUMMARY, FAILED = "summary", "failed"
_MOST_MESSAGE = 2000


def record_path(out: epath.Path, name: entities.Name, kind: str) -> epath.Path:
    """The record of an image: `SUMMARY` of its result, or `FAILED`."""
    return out / name.folder / f"{name}_{kind}.json"


def page_path(out: epath.Path, name: entities.Name) -> epath.Path:
    """The page of an image."""
    return out / f"{name}.html"


def figure_path(out: epath.Path, name: entities.Name) -> epath.Path:
    """The picture of an image."""
    return out / name.person / "figures" / f"{name.derive(name.suffix, desc='candidates')}.png"


@dataclasses.dataclass(frozen=True)
class ImagePlace:
    """Where an image's result lies, a `scan_folder.Place`.

    Attributes:
      out: the derived data set.
      image: the source.
      root: of the source data set, to be taken out of messages.
      report: whether the page is written.
      in_template: whether map and mask are written in the template's space too.
    """

    out: epath.Path
    image: raw_dataset.Image
    root: epath.Path
    report: bool = True
    in_template: bool = False

    @property
    def summary(self) -> epath.Path:
        """The file that is written last."""
        return record_path(self.out, self.image.name, SUMMARY)

    def _volume(self, suffix: str, **more: str) -> epath.Path:
        name = self.image.name.derive(suffix, **more)
        return self.out / name.folder / f"{name}.nii.gz"

    @property
    def native(self) -> tuple[epath.Path, epath.Path, epath.Path]:
        """Map, mask and reconstruction on the image's own grid."""
        return (
            self._volume("probseg", desc="anomaly"),
            self._volume("mask", desc="anomaly"),
            self._volume(self.image.name.suffix, desc="reconstruction"),
        )

    @property
    def template(self) -> tuple[epath.Path, epath.Path, epath.Path]:
        """Map and mask on the template's grid, and the transform."""
        space = {"space": spaces.TEMPLATE, "desc": "anomaly"}
        name = self.image.name
        stem = "_".join(f"{key}-{label}" for key, label in name.entities)
        transform = f"{stem}_from-{name.suffix}_to-{spaces.TEMPLATE}_mode-image_xfm.tfm"
        return (
            self._volume("probseg", **space),
            self._volume("mask", **space),
            self.out / name.folder / transform,
        )

    def _files(self) -> list[epath.Path]:
        """Everything beside the summary that this place is asked for."""
        listed = [*self.native, *map(_sidecar, self.native)]
        listed.append(figure_path(self.out, self.image.name))
        if self.report:
            listed.append(page_path(self.out, self.image.name))
        if self.in_template:
            listed += [*self.template, *map(_sidecar, self.template[:2])]
        return listed

    def is_whole(self) -> bool:
        """Whether what is asked for beside the summary is there."""
        return all(path.exists() for path in self._files())

    def start_over(self) -> None:
        """Takes an earlier result away, its summary first, and what a killed run left half."""
        everything = dataclasses.replace(self, report=True, in_template=True)._files()
        failed = record_path(self.out, self.image.name, FAILED)
        for path in (self.summary, failed, *everything):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                for half in path.parent.glob(f"{path.name}.*.new"):
                    half.unlink(missing_ok=True)

    def save(self, result: result_lib.Result) -> None:
        """Writes volumes, side-cars, picture and page, and last of all the summary.

        Raises:
          UserError: the folder cannot be written.
        """
        summary, limits = result.summary, (0.0, result.top)
        summary["source"] = sidecars.make_uri(self.image)
        summary["warnings"] = [hide_root(text, self.root) for text in summary["warnings"]]
        anomaly, mask, reconstruction = self.native
        # The same calls as for a folder: the same bytes.
        volumes.write_nifti(anomaly, result.anomaly, like=result.volume, limits=limits)
        volumes.write_nifti(mask, result.labels > 0, like=result.volume)
        volumes.write_nifti(reconstruction, result.reconstruction, like=result.volume)
        _write_json(_sidecar(anomaly), sidecars.make_map(self.image, summary))
        _write_json(_sidecar(mask), sidecars.make_mask(self.image, summary))
        _write_json(_sidecar(reconstruction), sidecars.make_reconstruction(self.image, summary))
        if self.in_template:
            self._save_in_template(result)
        picture = montage.draw_slices(result)
        atomic_files.write_bytes(figure_path(self.out, self.image.name), picture)
        if self.report:
            text = page.render(result)
            atomic_files.write_text(page_path(self.out, self.image.name), text)
        _write_json(self.summary, summary)

    def _save_in_template(self, result: result_lib.Result) -> None:
        anomaly, mask, transform = self.template
        places = {spaces.ANOMALY: anomaly, spaces.MASK: mask, spaces.TRANSFORM: transform}
        for name, content in spaces.make_files(result):
            # The scan itself lies in the source data set: the transform takes it there.
            if name in places:
                atomic_files.write_bytes(places[name], content)
        space = spaces.TEMPLATE
        _write_json(_sidecar(anomaly), sidecars.make_map(self.image, result.summary, space))
        _write_json(_sidecar(mask), sidecars.make_mask(self.image, result.summary, space))

    def write_failure(self, message: str) -> None:
        """Leaves why there is no result, in place of an earlier one.

        Raises:
          UserError: the folder cannot be written.
        """
        self.start_over()
        text = messages.shorten(hide_root(message, self.root), _MOST_MESSAGE)
        record = {"source": sidecars.make_uri(self.image), "status": FAILED, "message": text}
        _write_json(record_path(self.out, self.image.name, FAILED), record)


def hide_root(text: str, root: epath.Path) -> str:
    """A message without the folders above the data set, one of which may name a person."""
    for folder in {os.fspath(root).rstrip("/"), os.path.realpath(root)}:
        text = text.replace(f"{folder}/", "")
    return text


def _sidecar(path: epath.Path) -> epath.Path:
    return path.parent / f"{path.name.removesuffix('.nii.gz')}.json"


def _write_json(path: epath.Path, values: dict) -> None:
    result_lib.write_summary(path, values)
