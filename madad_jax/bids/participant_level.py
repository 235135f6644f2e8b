"""The analysis level `participant`: images through the detector, a few at a time."""

import logging
from collections.abc import Callable
from typing import Any

from etils import epath

from madad_jax.bids import derivative, raw_dataset
from madad_jax.core import errors, folder_lock
from madad_jax.data import discovery
from madad_jax.predict import detector as detector_lib
from madad_jax.predict import scan_folder

_LOG = logging.getLogger(__name__)


def score_images(
    detector_of: Callable[[raw_dataset.Image], detector_lib.Detector],
    images: list[raw_dataset.Image],
    out: epath.Path,
    root: epath.Path,
    *,
    report: bool = True,
    in_template: bool = False,
    workers: int = 1,
    stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Scores images into a derived data set; a row each, as `scan_folder.for_each_scan` gives it.

    What an image cannot do stands in its `*_failed.json`; results of the same file under the same
    settings are kept. Several jobs may share a data set: of one image, one waits for the other.

    Args:
      detector_of: the model's detector for an image; UserError where there is none for it.
      images: of its contrasts.
      out: the derived data set, which `output_dataset.begin` began.
      root: of the source.
      report: whether pages are written.
      in_template: whether maps and masks are written in the template's space too.
      workers: images at a time.
      stopped: asked before each image.

    Raises:
      UserError: `out` cannot be written.
    """
    places = {
        image.path: derivative.ImagePlace(out, image, root, report, in_template) for image in images
    }

    def work(scan: discovery.Scan) -> dict[str, Any]:
        place = places[scan.path]
        detector = detector_of(place.image)
        settings = scan_folder.settings_digest(detector)
        with folder_lock.hold(
            place.summary.parent, "output_dir", name=f".{scan.name}.lock", wait=lambda: None
        ):
            return scan_folder.score_scan(detector, scan, place, settings)

    def note(scan: discovery.Scan, row: dict[str, Any]) -> None:
        if row["status"] != derivative.FAILED:
            return
        row["message"] = derivative.hide_root(row["message"], root)
        try:
            places[scan.path].write_failure(row["message"])
        # A full disk: the other images' results are worth more than this record.
        except (errors.UserError, OSError) as error:
            _LOG.warning("%s: no record of its failure: %s", scan.name, error)

    found = [image.to_scan() for image in images]
    return scan_folder.for_each_scan(
        work, found, None, single=False, workers=workers, stopped=stopped, note=note
    )
