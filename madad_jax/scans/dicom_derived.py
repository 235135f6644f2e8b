"""DICOM objects of a scan that is a DICOM series: a mask as a segmentation, a map as numbers.

Written by highdicom, which is no requirement: the extra `dicom` brings it. The forms are those that
every reader takes, as tried (docs/dicom.md): one binary segment a file, every frame stored.

Person and study stand in the object as in its source images. All else in it comes from the caller,
so that the same scan, texts and time give the same bytes.
"""

import dataclasses
import datetime
import functools
import hashlib
import io
import logging
import warnings
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.scans import dicom_sources

_LONG_STRING = 64  # Characters of the standard's LO.
_SHORT_TEXT = 1024  # Of its ST.


@dataclasses.dataclass(frozen=True)
class About:
    """What an object says of its making, in ASCII.

    Attributes:
      name, version: of the program.
      model: that made the map.
      digest: of everything that decides what comes out for a scan.
      words: what the object shows and how it was decided, sentences.
      when: the time of writing.
    """

    name: str
    version: str
    model: str
    digest: str
    words: str
    when: datetime.datetime


def segmentation(
    mask: Bool[np.ndarray, "columns rows slices"],
    sources: dicom_sources.Sources,
    about: About,
    folder: epath.Path,
) -> bytes:
    """The file of a Segmentation with one binary segment.

    Args:
      mask: on the scan's own grid.
      sources: headers of the scan.
      about: texts.
      folder: of the scan, for messages.

    Raises:
      UserError: highdicom is not installed, or a header has a value that it does not take.
    """
    hd = _load()
    frames = sources.to_frames(mask).astype(np.uint8)
    uids = _Uids("segmentation", frames, sources, about)
    with dicom_sources.guard(folder):
        segment = hd.seg.SegmentDescription(
            segment_number=1,
            segment_label="Anomaly",
            segmented_property_category=_code(hd, "49755003", "Morphologically Abnormal Structure"),
            segmented_property_type=_code(hd, "52988006", "Lesion"),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=_algorithm(hd, about),
            tracking_uid=uids.make("tracking"),
            tracking_id=f"Anomaly {about.digest[:16]}",
            anatomic_regions=[_code(hd, "12738006", "Brain")],
        )
        segment.SegmentDescription = about.words[:_SHORT_TEXT]
        made = hd.seg.Segmentation(
            source_images=sources.images,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            # Without its empty frames an object of two lesions is misplaced by its readers.
            omit_empty_frames=False,
            content_label="ANOMALY",
            content_description="Anomaly mask, research use only, not a medical device",
            series_description="Anomaly mask - RESEARCH USE ONLY",
            **_common(sources, about, uids, offset=91),
        )
        return _to_bytes(made, about, uids)


def parametric_map(
    values: Float32[np.ndarray, "columns rows slices"],
    top: float,
    sources: dicom_sources.Sources,
    about: About,
    folder: epath.Path,
) -> bytes:
    """The file of a Parametric Map: the values as they are, float32.

    Args:
      values: scores of [0, 1] on the scan's own grid.
      top: the value that viewers show brightest.
      sources, about, folder: as for `segmentation`.

    Raises:
      UserError: as `segmentation`.
    """
    hd = _load()
    frames = sources.to_frames(values).astype(np.float32)
    uids = _Uids("parametric map", frames, sources, about)
    with dicom_sources.guard(folder):
        mapping = hd.pm.RealWorldValueMapping(
            lut_label="anomaly",
            lut_explanation="Anomaly score from 0 to 1, without a unit",
            unit=hd.sr.CodedConcept("1", "UCUM", "no units"),
            value_range=(0.0, 1.0),
            slope=1.0,
            intercept=0.0,
        )
        made = hd.pm.ParametricMap(
            source_images=sources.images,
            pixel_array=frames,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[_window(hd, top)],
            content_label="ANOMALY_MAP",
            content_description="Anomaly map, research use only, not a medical device",
            series_description="Anomaly map - RESEARCH USE ONLY",
            **_common(sources, about, uids, offset=92),
        )
        # Without it the validator asks for a side: the brain has none.
        made.BodyPartExamined = "BRAIN"
        made.ImageComments = about.words[:_SHORT_TEXT]
        return _to_bytes(made, about, uids)


class _Uids:
    """UIDs of one object, out of all that is in it: the same object has the same."""

    def __init__(self, kind: str, frames: np.ndarray, sources: Any, about: About):
        first = sources.images[0]
        self._words = (
            kind,
            str(first.SOPInstanceUID),
            str(first.SeriesInstanceUID),
            np.array2string(sources.affine, precision=6),
            *(str(value) for value in dataclasses.astuple(about)),
            _digest(frames),
        )

    def make(self, role: str) -> str:
        return dicom_sources.derive_uid(role, *self._words)


def _digest(frames: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


@functools.lru_cache(maxsize=1)
def _load() -> Any:
    """The module `highdicom`, imported at the first call (a second)."""
    try:
        import highdicom
    except ImportError as error:
        raise errors.UserError(
            "DICOM objects need the package 'highdicom'; accepted: pip install "
            "'madad_jax[dicom]', or --output_format=nifti"
        ) from error
    # Its warnings quote the headers: names of persons.
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"highdicom\b")
    return highdicom


def _window(hd: Any, top: float) -> Any:
    # LINEAR, the standard's default, does not allow a width below 1.
    return hd.VOILUTTransformation(top / 2, top, voi_lut_function="LINEAR_EXACT")


def _code(hd: Any, value: str, meaning: str) -> Any:
    return hd.sr.CodedConcept(value, "SCT", meaning)


def _algorithm(hd: Any, about: About) -> Any:
    return hd.AlgorithmIdentificationSequence(
        name=about.name,
        family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        version=about.version,
        parameters={"model": about.model, "run_digest": about.digest},
    )


def _common(
    sources: dicom_sources.Sources, about: About, uids: _Uids, *, offset: int
) -> dict[str, Any]:
    """What every object says of its series and of the program."""
    number = sources.images[0].get("SeriesNumber") or 0
    # Series 4 gives 491 and 492: other numbers than a scanner's, and near their source.
    number = 100 * int(number) if 0 <= int(number) < 2**20 else 0
    return {
        "series_instance_uid": uids.make("series"),
        "series_number": number + offset,
        "sop_instance_uid": uids.make("instance"),
        "instance_number": 1,
        "manufacturer": f"{about.name} (research software)",
        "manufacturer_model_name": about.model[:_LONG_STRING],
        "software_versions": about.version,
        "device_serial_number": about.digest[:_LONG_STRING],
        # UTF-8, whatever the source has: highdicom refuses sets of several codes, as Japanese
        # names have them (findings/highdicom_refuses_japanese_names.sh).
        "specific_character_set": "ISO_IR 192",
    }


def _to_bytes(made: Any, about: About, uids: _Uids) -> bytes:
    """The file of an object, once what highdicom draws anew each time is what we say."""
    day, time = about.when.strftime("%Y%m%d"), about.when.strftime("%H%M%S")
    made.InstanceCreationDate = made.ContentDate = made.SeriesDate = day
    made.InstanceCreationTime = made.ContentTime = made.SeriesTime = time
    for item in made.get("ContributingEquipmentSequence", ()):
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = day + time
    organization = uids.make("dimensions")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    content = io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()
