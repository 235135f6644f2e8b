"""Side-cars: what a file is, what it was made from, and by which model at which threshold."""

from typing import Any

from madad_jax.bids import output_dataset, raw_dataset

_MAP = (
    "Anomaly map, 0 to 1, before any threshold: how far the image differs from the model's healthy "
    "version of it; 0 where nothing was scored"
)
_MASK = "1 where the anomaly map, after post-processing, lies above Threshold"
_RECONSTRUCTION = "The image as the model would have it, in its units; 0 where nothing was scored"


def make_map(image: raw_dataset.Image, summary: dict[str, Any], space: str = "") -> dict[str, Any]:
    """The side-car of the anomaly map; `space` is the template's name, "" the image's own."""
    return {"Description": _MAP, **_common(image, summary, space)}


def make_mask(image: raw_dataset.Image, summary: dict[str, Any], space: str = "") -> dict[str, Any]:
    """The side-car of the mask of candidates; as `make_map`."""
    return {
        "Description": _MASK,
        **_common(image, summary, space),
        "Type": "Lesion",
        "Candidates": len(summary["candidates"]),
        "CandidatesVolumeMl": round(sum(p["volume_ml"] for p in summary["candidates"]), 3),
    }


def make_reconstruction(image: raw_dataset.Image, summary: dict[str, Any]) -> dict[str, Any]:
    """The side-car of the reconstruction."""
    # Only the scored brain has values: a skull is never in it.
    common = _common(image, summary, "")
    return {"Description": _RECONSTRUCTION, **common, "SkullStripped": True}


def make_uri(image: raw_dataset.Image) -> str:
    """Where the image lies, without a path of this machine."""
    return f"bids:{output_dataset.RAW}:{image.below}"


def _common(image: raw_dataset.Image, summary: dict[str, Any], space: str) -> dict[str, Any]:
    point, score, model = summary["operating_point"], summary["scan_score"], summary["model"]
    scan = summary["scan"]
    beside = [one["sha256"] for one in scan.get("beside", {}).values()]
    return {
        "Sources": [make_uri(one) for one in (image, *image.beside)],
        "SourceSHA256": [scan["sha256"], *beside] if beside else scan["sha256"],
        "SpatialReference": space or "orig",
        "Threshold": point["threshold"],
        "ThresholdChosenBy": point["chosen_by"],
        "ThresholdAsked": point["asked"],
        "ExpectedOnHealthyScans": point["expected_on_healthy_scans"],
        "Calibration": {
            "Source": model.get("calibrated_on"),
            "HealthyScans": score["healthy_scans"],
        },
        "AnomalyScore": score["score"],
        "AnomalyScorePercentile": score["percentile"],
        "Signal": summary["signal"],
        "PostProcessing": summary["postprocess"],
        "Model": {
            "Name": model.get("name"),
            "Digest": model.get("weights"),
            "Version": model.get("version"),
            "Contrast": model.get("modality"),
        },
        "SettingsSHA256": summary["settings_sha256"],
        "Warnings": summary["warnings"],
        "Note": summary["not_a_medical_device"],
    }
