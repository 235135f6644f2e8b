"""Prediction on whole scans, measured: overlap, calibration, time and memory.

    python -m benchmarks.prediction --run=runs/demo --out=benchmarks/results/prediction.md

Everything is drawn from the embedded cohort (synthetic) by subjects that the run never saw: scans
of other streams than the run's slices, and slices of other seeds. `--parts` picks some of
overlap, calibration, coverage, scans, time.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np

from madad_jax.data.cohort import cohort, cohort_scan
from madad_jax.evaluation import calibrate
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.metrics import intervals, scan_stacks
from madad_jax.predict import api
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import registration, resample

# As a thick-slice clinical scan lies in a scanner: oblique, anisotropic, head off the centre.
GRID = cohort_scan.Grid((0.9, 0.9, 2.5), (8.0, -5.0, 12.0), (6.0, -10.0, 14.0), False, True)
LESIONS = (("tumour", "large"), ("stroke", "large"), ("tumour", "medium"), ("stroke", "medium"))
EACH = 2  # scans of each kind and size
FRESH_SEEDS = (1000, 2000)
TRIALS = 500

Fresh = dict[calibration_lib.Key, list[calibration_lib.Scan]]


def overlap(run: str, signal: str, postprocess: str) -> list[str]:
    """Dice of the mask with the truth on the scan's own grid, at the run's default rate."""
    detector = api.load(run, signal=signal, postprocess=postprocess, registration="affine")
    lines = [
        "| lesion | subject | truth in scored slices, ml | mask, ml | Dice "
        "| largest candidate hits |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    slices = detector.numbers, detector.preparation.geometry
    for lesion, index in ((one, i) for one in LESIONS for i in inside(one, *slices)):
        scan = cohort_scan.draw(index, modality="T1", seed=0, lesion=lesion, grid=GRID)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "scan.nii.gz"
            nib.save(scan.nifti(), path)
            result = detector(path)
            result.save(folder)
            mask = np.asarray(nib.load(f"{folder}/anomaly_mask.nii.gz").dataobj) > 0
            scored = np.asarray(nib.load(f"{folder}/reconstruction.nii.gz").dataobj) != 0
        truth = scan.segmentation & scored
        ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        dice = 2 * (truth & mask).sum() / max(1, truth.sum() + mask.sum())
        hit = "none"
        if result.candidates:
            from madad_jax.scans import volumes

            first = volumes.to_native(result.labels == 1, result.volume)
            hit = "yes" if (first & truth).any() else "no"
        lines.append(
            f"| {' '.join(lesion)} | {index} | {truth.sum() * ml:.1f} | {mask.sum() * ml:.1f} "
            f"| {dice:.3f} | {hit} |"
        )
    return lines


def inside(lesion: tuple[str, str], numbers, geometry) -> list[int]:
    """The first subjects whose lesion lies for the most part at the heights that the run sees."""
    low, high = (
        geometry.first_level + geometry.level_step * n for n in (min(numbers), max(numbers))
    )
    found, index = [], 0
    while len(found) < EACH:
        scan = cohort_scan.draw(index, modality="T1", seed=0, lesion=lesion)
        z = np.argwhere(scan.segmentation) @ scan.affine[2, :3] + scan.affine[2, 3]
        if np.mean((z >= low) & (z <= high)) > 0.5:
            found.append(index)
        index += 1
    return found


def fresh_scans(run: str, count: int, seed: int) -> Fresh:
    """What healthy subjects of another seed score, slice by slice as the run was calibrated."""
    model = api.open_model(run, "")
    config, known = model.config, model.calibration
    options = cohort.options_from_dict({**config.data.cohort.to_dict(), "test_healthy": count})
    source = cohort.Cohort(
        "test_healthy",
        modality=config.data.modality,
        image_size=config.data.image_size,
        seed=config.seed + seed,
        options=options,
    )
    size = config.eval.batch_size
    maps: dict[str, list[np.ndarray]] = {}
    for number, start in enumerate(range(0, len(source), size)):
        rows = np.minimum(np.arange(start, start + size), len(source) - 1)
        items = [source[int(i)] for i in rows]
        batch = {k: np.stack([item[k] for item in items]) for k in ("image", "brain_mask")}
        out = model.scorer(number, batch)
        for signal in {s for s, _ in known.healthy}:
            kept = np.clip(out[signal][: len(source) - start], 0, 1)
            maps.setdefault(signal, []).append(kept)
    brain = np.stack([source[i]["brain_mask"] for i in range(len(source))])
    made = calibrate.from_slices(
        {k: np.concatenate(v) for k, v in maps.items()},
        brain,
        source.records,
        model.preparation.geometry,
        {},
        known.options,
    )
    return {key: list(healthy.scans) for key, healthy in made.healthy.items()}


def both_seeds(run: str, count: int) -> Fresh:
    """Fresh subjects, half of each seed."""
    parts = [fresh_scans(run, count // len(FRESH_SEEDS), seed) for seed in FRESH_SEEDS]
    return {key: [scan for part in parts for scan in part[key]] for key in parts[0]}


def coverage(fresh: Fresh) -> list[str]:
    """How often the interval that `expected` gives holds the rate of everybody.

    The fresh subjects are everybody here; as many as a run calibrates with are drawn from them.
    """
    lines = ["| scans | asked | rate of all over asked, 95 % of draws | held by the interval | by "]
    lines[0] += "the percentile bootstrap |"
    lines.append("| ---: | ---: | --- | ---: | ---: |")
    scans = fresh["map", "none"]
    rng = np.random.default_rng(0)
    for count in (12, 24, 48):
        for rate in (0.05, 0.01, 0.002):
            ratios, ours, plain = [], 0, 0
            for _ in range(TRIALS):
                some = [scans[i] for i in rng.integers(0, len(scans), count)]
                threshold = calibration_lib.Healthy(tuple(some)).by_voxel_fpr(rate).threshold
                truth = np.mean([s.share_above(threshold) for s in scans])
                shares = np.array([s.share_above(threshold) for s in some])
                drawn = shares[rng.integers(0, count, (TRIALS, count))].mean(axis=1)
                low, high = intervals.mean_interval(shares, at_most=1.0)
                ours += low <= truth <= high
                low, high = np.percentile(drawn, (2.5, 97.5))
                plain += low <= truth <= high
                ratios.append(truth / rate)
            low, high = np.percentile(ratios, (2.5, 97.5))
            lines.append(
                f"| {count} | {rate:g} | {np.median(ratios):.2f} [{low:.2f}, {high:.2f}] "
                f"| {ours / TRIALS:.0%} | {plain / TRIALS:.0%} |"
            )
    return lines


def table(known: calibration_lib.Calibration, fresh) -> list[str]:
    """A row per signal, post-processing and asked rate."""
    lines = [
        "| signal | post-processing | asked | measured on fresh subjects | 95 % interval | in |"
    ]
    lines.append("| --- | --- | ---: | ---: | --- | --- |")
    for key, scans in fresh.items():
        healthy = known.healthy[key]
        least = 1.0 / len(healthy.scans)
        if all(not len(scan.levels) for scan in healthy.scans):
            lines.append(
                f"| {' | '.join(key)} | the maps of healthy scans are 0 everywhere | | | |"
            )
            continue
        asked = [("voxel_fpr", r) for r in (0.05, 0.01, 0.002)]
        asked += [("false_positives_per_scan", r) for r in (1.0, 4.0) if r >= least]
        for kind, rate in asked:
            try:
                value, low, high = _measured(healthy, scans, kind, rate)
            except Exception as error:
                lines.append(f"| {' | '.join(key)} | {kind} {rate:g} | {error} | | |")
                continue
            inside = "yes" if low <= rate <= high else "no"
            lines.append(
                f"| {' | '.join(key)} | {kind} {rate:g} | {value:.4g} | [{low:.4g}, {high:.4g}] "
                f"| {inside} |"
            )
    return lines


def through_scans(run: str, count: int) -> list[str]:
    """Rates on healthy whole scans, which are resampled on their way, at the run's thresholds."""
    known = calibrate.load(run)
    detector = api.load(run, registration="affine")
    fresh: Fresh = {}
    for index in range(count):
        drawn = cohort_scan.draw(index, modality="T1", seed=0, grid=GRID)
        for key, entry in detector.measure(drawn.nifti(), f"{index}", known.options)[0].items():
            fresh.setdefault(key, []).append(entry)
    return table(known, fresh)


def _measured(healthy, scans, kind: str, rate: float) -> tuple[float, float, float]:
    """The fresh scans' rate and its interval; chance is in both groups of people."""
    if kind == "voxel_fpr":
        threshold = healthy.by_voxel_fpr(rate).threshold
        groups = [[s.share_above(threshold) for s in g] for g in (scans, healthy.scans)]
    else:
        threshold = healthy.by_false_positives(rate).threshold
        groups = [
            [float(scan_stacks.count_at(s.levels, s.counts, threshold)) for s in g]
            for g in (scans, healthy.scans)
        ]
    found = intervals.fresh_mean_interval(*(np.array(g) for g in groups))
    if found is None:
        raise ValueError("no value above 0")
    return float(np.mean(groups[0])), *found


def whole_head(seed: int) -> nib.Nifti1Image:
    """182 x 218 x 182 voxels of 1 mm, the grid that FSL's MNI152 made common."""
    image, brain, grid = registration.template_brain()
    affine = np.eye(4)
    affine[:3, 3] = (-90.0, -126.0, -72.0)
    target = geometry_lib.VoxelGrid((182, 218, 182), affine)
    rng = np.random.default_rng(seed)
    moved = np.eye(4)
    moved[:3, 3] = rng.normal(0, 3, 3)
    data = resample.resample(image * brain, grid, target, moved, order=1) * 800
    data = np.where(data > 20, np.maximum(data + rng.normal(0, 15, data.shape), 1), 0)
    return nib.Nifti1Image(data.astype(np.int16), affine)


def timed(run: str, many: int) -> list[str]:
    """Wall time, CPU time and peak memory of the command itself."""
    lines = ["| input | options | wall, s | CPU, s | s a scan | peak memory, GiB |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        scans = pathlib.Path(folder) / "scans"
        scans.mkdir()
        for i in range(many):
            nib.save(whole_head(i), scans / f"{i:02d}.nii.gz")
        one = [f"--input={scans / '00.nii.gz'}"]
        _command(run, one, folder)  # fills the compile cache, as a second run finds it
        cases = [("one scan", [*one, f"--batch_size={b}"], 1) for b in (1, 4, 16)]
        for workers, batch in ((1, 1), (1, 4), (1, 16), (2, 16)):
            flags = [f"--input={scans}", f"--batch_size={batch}", f"--workers={workers}"]
            cases.append((f"{many} scans", flags, many))
        for name, flags, count in cases:
            wall, cpu, memory = _command(run, flags, folder)
            shown = " ".join(f for f in flags if not f.startswith("--input"))
            lines.append(
                f"| {name} | `{shown}` | {wall:.1f} | {cpu:.1f} | {wall / count:.1f} "
                f"| {memory:.2f} |"
            )
    return lines


def _command(run: str, flags: list[str], folder: str) -> tuple[float, float, float]:
    out = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "madad_jax.predict", f"--checkpoint={run}", *flags]
    command += [f"--output={out}", "--registration=affine"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(err.decode()[-2000:])
    seconds = time.monotonic() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo")
    parser.add_argument("--out", default="benchmarks/results/prediction.md")
    parser.add_argument("--parts", default="overlap,calibration,coverage,scans,time")
    parser.add_argument("--signal", default="map")
    parser.add_argument("--postprocess", default="none")
    parser.add_argument("--fresh", type=int, default=120, help="healthy subjects")
    parser.add_argument("--timed", type=int, default=20, help="scans of the timed folder")
    parser.add_argument("--scans", type=int, default=10, help="healthy whole scans")
    options = parser.parse_args()
    parts = options.parts.split(",")
    command = f"python -m benchmarks.prediction {' '.join(sys.argv[1:])}".strip()
    text = ["# Prediction on whole scans", "", f"`{command}`", ""]
    facts = calibrate.load(options.run).facts
    text += [
        "Everything here is synthetic (embedded cohort): it shows that the program works and "
        f"says nothing about patients. Run `{facts['config']['name']}`, version "
        f"{facts['version']}, weights {facts['weights'][:16]}; {os.cpu_count()} CPU cores, "
        f"{platform.machine()}, Python {platform.python_version()}; "
        f"load average at the start {os.getloadavg()[0]:.1f}.",
        "",
    ]
    if "overlap" in parts:
        text += ["## Overlap with the truth in the scan's own space", ""]
        text += [
            f"Scans of {GRID.voxel_mm} mm voxels, turned by {GRID.angles} degrees and shifted by "
            f"{GRID.shift} mm in the scanner, registered (affine); signal `{options.signal}`, "
            f"post-processing `{options.postprocess}`, the run's default rate.",
            "",
            *overlap(options.run, options.signal, options.postprocess),
            "",
        ]
    if {"calibration", "coverage"} & set(parts):
        fresh = both_seeds(options.run, options.fresh)
    if "calibration" in parts:
        text += ["## Asked and measured false positives", ""]
        text += [
            f"{options.fresh} healthy subjects of two other seeds, thresholds from the run's own "
            f"{len(next(iter(calibrate.load(options.run).healthy.values())).scans)} healthy "
            "validation subjects. The interval knows that both groups are a draw.",
            "",
            *table(calibrate.load(options.run), fresh),
            "",
        ]
    if "coverage" in parts:
        text += ["## Does the stated interval hold?", "", *coverage(fresh), ""]
    if "scans" in parts:
        text += ["## The same thresholds on healthy whole scans", ""]
        text += [
            f"{options.scans} healthy scans on the oblique grid, through registration and "
            "resampling, which the slices of the calibration did not go through.",
            "",
            *through_scans(options.run, options.scans),
            "",
        ]
    if "time" in parts:
        text += ["## Time and memory", ""]
        text += ["Scans of 182 x 218 x 182 voxels; start of the program included.", ""]
        text += [*timed(options.run, options.timed), ""]
    pathlib.Path(options.out).write_text("\n".join(text))
    print(json.dumps({"written": options.out}))


if __name__ == "__main__":
    main()
