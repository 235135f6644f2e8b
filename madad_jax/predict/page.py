"""`report.html`: one file without a network, an interactive viewer and what the numbers mean.

The viewer is NiiVue, read at run time from the nilearn wheel and written into the page with its
licence. Everything that comes from a file's name or header is escaped: a scan from a stranger
must not bring a script along.
"""

import base64
import functools
import gzip
import html as html_lib
import importlib.resources
import json
import os
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.predict import montage

_MOST_VOXELS = 12_000_000  # of the viewer's volume; larger scans are thinned for the page
_THRESHOLDS = 150
_MOST_LISTED = 200
NIIVUE = ("_assets", "js", "niivue.umd.js")  # where nilearn keeps the viewer
_MARGIN = 8  # voxels around the head


def render(result: Any) -> str:
    """The page of a `result.Result`."""
    summary, point = result.summary, result.summary["operating_point"]
    # The slider reaches beyond the threshold even where the map stays below it.
    top = result.top
    window = _window(result.volume.data)
    data = {
        "scan": _nifti(_grey(result.volume.data), result.volume.affine, window, 1.0),
        "map": _nifti(
            # A byte a voxel: finer steps are not seen, and the page stays a few MB.
            np.round(255 / top * result.anomaly).astype(np.uint8),
            *(result.volume.affine, window, top / 255),
        ),
        "threshold": point["threshold"],
        "slider_max": round(min(1.0, top) + 5e-4, 3),
        "healthy": _meanings(result.healthy, top, point["threshold"]),
    }
    alt = "Axial slices of the scan, with the places above the threshold outlined"
    parts = {
        "title": _text("Anomaly map of " + os.path.basename(summary["scan"]["source"])),
        "css": _asset("report.css"),
        "not_a_device": _text(summary["not_a_medical_device"]),
        "headline": _text(_headline(summary)),
        "left_side": '<span class="side">left</span>',
        "point": _text(_point(point)),
        "candidates": _list(summary["candidates"], window),
        "range": montage.draw_healthy_range(result.healthy, summary["scan_score"]),
        "picture_alt": _text(alt),
        "picture": base64.b64encode(montage.draw_slices(result)).decode(),
        "warnings": _warnings(summary["warnings"], window),
        "facts": _facts(summary),
        "license": _text(_asset("niivue_license.txt")),
        "data": _json(data),
        "niivue": read_niivue(),
        "js": _asset("report.js"),
    }
    page = _asset("report.html")
    # One pass over the template's own marks: what is put in is never looked at again.
    pieces = page.split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


@functools.lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return importlib.resources.files("madad_jax.predict").joinpath("assets", name).read_text()


@functools.lru_cache(maxsize=1)
def read_niivue(path: tuple[str, ...] = NIIVUE) -> str:
    """The viewer's code, at `path` in nilearn.

    Raises:
      UserError: nilearn is not there or does not hold it.
    """
    try:
        file = importlib.resources.files("nilearn").joinpath(*path)
        code = file.read_text(encoding="utf-8")
    except (ModuleNotFoundError, OSError) as error:
        raise errors.UserError(
            "report.html needs NiiVue as nilearn 0.14 ships it (nilearn/_assets/js/niivue.umd.js); "
            "install nilearn>=0.14, or go without: --report=false"
        ) from error
    # It would end the element in which the viewer's code stands.
    if "</script" in code.lower():
        raise errors.UserError(f"'{file}' cannot be written into a page; use --report=false")
    return code


def _text(value: Any) -> str:
    return html_lib.escape(str(value), quote=True)


def _json(value: Any) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _window(data: np.ndarray) -> tuple[slice, ...]:
    """The box around what is not 0, thinned along its longest sides until a page can hold it."""
    box = ndimage.find_objects((data != 0).astype(np.uint8))[0]
    ends = [
        (max(b.start - _MARGIN, 0), min(b.stop + _MARGIN, n))
        for b, n in zip(box, data.shape, strict=True)
    ]
    sides, steps = [b - a for a, b in ends], [1, 1, 1]
    while np.prod([-(-n // s) for n, s in zip(sides, steps, strict=True)]) > _MOST_VOXELS:
        steps[int(np.argmax([n / s for n, s in zip(sides, steps, strict=True)]))] += 1
    return tuple(slice(a, b, s) for (a, b), s in zip(ends, steps, strict=True))


def _grey(data: np.ndarray) -> np.ndarray:
    """uint8 between the 1st and 99.5th percentile of what is not 0."""
    some = data[data != 0]
    # Half a million voxels give the same limits in milliseconds.
    low, high = np.percentile(some[:: max(1, some.size // 500_000)], (1.0, 99.5))
    low = min(0.0, float(low))
    unit = (data - np.float32(low)) / np.float32(max(float(high) - low, 1e-6))
    return np.round(255 * np.clip(unit, 0.0, 1.0)).astype(np.uint8)


def _nifti(array: np.ndarray, affine: np.ndarray, window: tuple[slice, ...], slope: float) -> str:
    """The window of an array as a NIfTI file, packed and in base64."""
    matrix = affine @ np.diag([*(s.step for s in window), 1.0])
    matrix[:3, 3] = (affine @ np.array([*(s.start for s in window), 1.0]))[:3]
    part = array[window]
    image = nib.Nifti1Image(part, matrix)
    header = image.header.copy()
    # nibabel would rescale the integers; the slope is meant as it stands.
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, 0.0, 352
    header["magic"] = b"n+1"
    content = header.binaryblock + bytes(4) + part.tobytes(order="F")
    # No time in the gzip header: the same result gives the same page.
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def _meanings(healthy: Any, top: float, chosen: float) -> list[list[Any]]:
    """[threshold, share of healthy voxels above, candidates a healthy scan or null], rising."""
    if healthy is None:
        return []
    rows = []
    # With the chosen one exactly, which the slider starts from.
    for threshold in np.unique([*np.linspace(0.0, min(top, 1.0), _THRESHOLDS), chosen]):
        expected = healthy.expected(float(threshold))
        rows.append([float(threshold), expected["voxel_fpr"], expected["false_positives_per_scan"]])
    return rows


def _headline(summary: dict[str, Any]) -> str:
    score, places = summary["scan_score"], summary["candidates"]
    text = f"Scan score {score['score']:.3f}"
    if score["percentile"] is not None:
        text += (
            f", percentile {score['percentile']:.0f} among the {score['healthy_scans']} healthy "
            "scans that the run was calibrated with"
        )
    count = "no candidate" if not places else f"{len(places)} candidate(s)"
    total = sum(p["volume_ml"] for p in places)
    return f"{text}; {count}" + (f", {total:.1f} ml in all." if places else ".")


def _point(point: dict[str, Any]) -> str:
    names = {
        "voxel_fpr": "chosen by the share of healthy brain voxels above it",
        "false_positives_per_scan": "chosen by the candidates per healthy scan",
        "threshold": "given as it is",
    }
    text = f"Threshold {point['threshold']:.4f}, {names[point['chosen_by']]}"
    if point["chosen_by"] != "threshold":
        text += f" (asked: {point['asked']:g})"
    expected = point["expected_on_healthy_scans"]
    if expected is None:
        return text + ". The run is not calibrated: nothing is known of healthy scans."
    text += (
        f". On {expected['healthy_scans']} healthy scan(s) {expected['voxel_fpr']:.2%} of brain "
        "voxels lie above it"
    )
    if expected["voxel_fpr_interval"] is not None:
        low, high = expected["voxel_fpr_interval"]
        text += f" [95 % interval {low:.2%} to {high:.2%}]"
    if expected["false_positives_per_scan"] is not None:
        text += f", in {expected['false_positives_per_scan']:.2f} places a scan"
        if expected["false_positives_per_scan_interval"] is not None:
            low, high = expected["false_positives_per_scan_interval"]
            text += f" [{low:.2f} to {high:.2f}]"
    if expected["next_scan"] is not None:
        most, chance = expected["next_scan"].values()
        text += f"; a healthy scan to come has at most {most} of them at a chance of {chance:.0%}"
    return text + "."


def _list(places: list[dict[str, Any]], window: tuple[slice, ...]) -> str:
    if not places:
        return "<p>Nothing lies above the threshold.</p>"
    rows = []
    for p in places[:_MOST_LISTED]:
        voxel = [(v - s.start) // s.step for v, s in zip(p["voxel"], window, strict=True)]
        centre = ", ".join(f"{v:.0f}" for v in p["centre_mm"])
        rows.append(
            f'<li><button type="button" data-voxel="{_text(voxel)}">'
            f'<span class="number">{p["number"]}</span><span>{p["volume_ml"]:.2f} ml</span>'
            f"<span>score {p['mean_score']:.3f}</span><span>{_text(p['region']['name'])}</span>"
            f"<span>({centre}) mm</span></button></li>"
        )
    more = len(places) - len(rows)
    text = f"<p>and {more} smaller ones, in summary.json</p>" if more else ""
    return f'<ol class="places">{"".join(rows)}</ol>{text}'


def _warnings(warnings: list[str], window: tuple[slice, ...]) -> str:
    if any(s.step > 1 for s in window):
        warnings = [*warnings, "the viewer shows a thinned copy of this large scan"]
    if not warnings:
        return ""
    return f"<ul>{''.join(f'<li>{_text(w)}</li>' for w in warnings)}</ul>"


def _facts(summary: dict[str, Any]) -> str:
    scan, post = summary["scan"], summary["postprocess"]
    rows = {
        "Scan": scan["source"],
        "Grid": f"{' x '.join(map(str, scan['shape']))}, {scan['voxel_mm']} mm",
        "Brain": f"{scan['brain_ml']:.0f} ml, {scan['brain_scored']:.0%} of it scored",
        "Slices scored": f"{scan['slices_scored']}, z = {scan['levels_mm'][0]:g} to "
        f"{scan['levels_mm'][1]:g} mm ({scan.get('template', {}).get('file', 'MNI')})",
        "Registration": f"{scan['registration']}, brain overlap {scan['registration_overlap']}",
        "Signal": summary["signal"],
        "Post-processing": ", ".join(
            [post["name"], *(f"{k} {v:g}" for k, v in post.items() if k != "name" and v)]
        ),
        **{k.replace("_", " ").capitalize(): v for k, v in summary["model"].items()},
    }
    return "".join(
        f"<tr><th scope='row'>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items()
    )
