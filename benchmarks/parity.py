"""Compares every part with numbers computed by the official MAD-AD code.

    python -m benchmarks.parity --golden=DIR [--out=benchmarks/results/parity.md]

DIR holds the larger comparison files (per-layer activations, gradients, whole sampling loops,
metrics); tests/fixtures/README.md says what the official code is and how its numbers were made.
The first rows need only `tests/fixtures`. Prints one line per comparison, writes them as a
Markdown table, and exits with 1 when one is beyond its tolerance. Float32 on whatever device
JAX finds, matmul precision "highest". About five minutes on two CPU cores.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import parity_networks as networks
from benchmarks.comparison import Row, largest, nhwc, table
from madad_jax.anomaly_maps import difference
from madad_jax.diffusion import losses, masking, process, schedule
from madad_jax.metrics import pixel_pool, threshold_counts

MASK_WEIGHT = 0.001


def diffusion(golden: pathlib.Path) -> Iterator[Row]:
    """File b: schedule tables, respacing, forward process, losses, single DDIM updates."""
    name = "b_diffusion"
    file = np.load(golden / f"{name}.npz")
    full = schedule.make_schedule("cosine", 10)
    for steps in (10, 5, 4, 3, 2):
        spaced = schedule.respace(full, steps)
        tables = ("timestep_map", "betas", "alphas_cumprod", "alphas_cumprod_prev")
        error = max(largest(getattr(spaced, k), file[f"ddim{steps}/{k}"]) for k in tables)
        yield Row(name, f"schedule of {steps} steps", error, 1e-12)

    t, visible = file["q/t"], file["q/mask"][:, 0]
    x0, noise = nhwc(file["q/x_start"]), nhwc(file["q/noise"])
    x_t = process.q_sample(full, x0, t, noise, visible)
    yield Row(name, "q_sample", largest(x_t, nhwc(file["q/x_t"])), 2e-6)
    x0_hat, p = nhwc(file["loss/model_output"]), nhwc(file["loss/mask_output"])
    mse = losses.latent_loss(x0, x0_hat, visible)
    logit = np.log(p.astype(np.float64)) - np.log1p(-p.astype(np.float64))
    mask = losses.mask_loss(visible, jnp.asarray(logit, jnp.float32), "mse")
    yield Row(name, "loss: latent", largest(mse, file["loss/mse"]), 1e-5)
    yield Row(name, "loss: mask", largest(mask, file["loss/mask_prediction"]), 1e-5)
    total = mse + MASK_WEIGHT * mask
    yield Row(name, "loss: total", largest(total, file["loss/loss"]), 1e-5)

    x, z = nhwc(file["ddimstep/x"]), nhwc(file["ddimstep/noise"])
    abar = np.float32(full.alphas_cumprod)[file["ddimstep/t"]]
    previous = np.float32(full.alphas_cumprod_prev)[file["ddimstep/t"]]
    flagged = (p[..., 0] < 0.5).astype(np.float32)
    for eta in (0.0, 0.5):
        ours = [
            process.ddim_step(
                x[i : i + 1],
                x0_hat[i : i + 1],
                flagged[i : i + 1],
                z[i : i + 1],
                abar=jnp.float32(abar[i]),
                abar_prev=jnp.float32(previous[i]),
                eta=eta,
            )
            for i in range(len(x))
        ]
        theirs = nhwc(file[f"ddimstep/sample_eta{eta}"])
        # At t = 9 the noise estimate is x / 0.005: compare relative to the largest value.
        error = largest(np.concatenate(ours), theirs, max(1.0, np.abs(theirs).max()))
        yield Row(name, f"one DDIM update at every t, eta {eta}", error, 1e-5)


def figures(golden: pathlib.Path) -> Iterator[Row]:
    """Files e and f: the four metrics and the anomaly map."""
    file = np.load(golden / "e_metrics.npz")
    for group in ("e_main", "e_ties", "e_quirk_th1"):
        maps, truth = file[f"{group}/maps"], file[f"{group}/gt"] > 0
        yield from _metrics("e_metrics", group, maps, truth, file, f"{group}/")
    maps = file["e_emptyonly/maps"]
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, np.zeros(maps.shape, bool))
    error = largest(counts.max_dice()[0], file["e_emptyonly/max_dice"])
    yield Row("e_metrics", "e_emptyonly: max Dice", error, 1e-6)

    name = "f_anomaly_map"
    file = np.load(golden / f"{name}.npz")
    corrected, autoencoded = nhwc(file["x_rec_corrected"]), nhwc(file["x_rec_input"])
    clipped = difference.clipped_difference(corrected, autoencoded, difference="l1", gamma=0.25)
    yield Row(name, "difference before smoothing", largest(clipped, file["pre_smooth"]), 1e-6)
    smoothed = difference.gaussian_smooth(clipped, 5.0)
    yield Row(name, "anomaly map", largest(smoothed, file["anomaly_map"]), 1e-6)
    truth = file["segmentation"] > 0
    yield from _metrics(name, "of our map", np.asarray(smoothed), truth, file, "")


def _metrics(name, group, maps, truth, file, prefix) -> Iterator[Row]:
    pooled = pixel_pool.pooled(maps, truth)
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, truth)
    for what, ours, key in (
        ("AUROC", pooled.auroc, "auroc"),
        ("AP", pooled.ap, "ap"),
        ("pooled max Dice", pooled.max_dice, "f1max"),
        ("max Dice", counts.max_dice()[0], "max_dice"),
    ):
        yield Row(name, f"{group}: {what}", largest(ours, file[prefix + key]), 1e-6)


def masks(golden: pathlib.Path) -> Iterator[Row]:
    """File g: brain-mask rule and block masks from the official permutations, cell by cell."""
    name = "g_masks"
    file = np.load(golden / f"{name}.npz")
    brain = jnp.asarray(file["brainmask"] > 0)
    outside = masking.outside_brain(brain, (32, 32), cells=2, min_fraction=0.9)
    yield Row(name, "brain-mask rule, cells", np.abs(outside - file["reduced"][:, 0]).sum(), 0)
    ratios = file["random_mask/ratios"]
    wrong = wrong_gated = 0.0
    for key in (k for k in file.files if k.startswith("random_mask/seed")):
        seed, rows, columns = (int(n) for n in re.findall(r"\d+", key))
        count = 1024 // (rows * columns)
        rng, scores = np.random.RandomState(seed), np.full((len(ratios), 1024), np.inf)
        for i in range(len(ratios)):
            order = np.arange(count)
            rng.shuffle(order)
            scores[i, order] = np.arange(count)  # the first of the permutation stay visible
        sides = jnp.array([rows]), jnp.array([columns])
        arguments = jnp.asarray(scores, jnp.float32), jnp.asarray(ratios, jnp.float32)
        visible = masking.blocks_from_scores(*arguments, *sides, (32, 32))
        wrong += np.abs(visible - file[key]).sum()
        gated = file[key.replace("random_mask/", "random_mask_brain/")]
        wrong_gated += np.abs(masking.keep_outside(visible, outside) - gated).sum()
    yield Row(name, "block masks, cells", wrong, 0)
    yield Row(name, "block masks inside the brain, cells", wrong_gated, 0)


def main() -> int:
    """Runs all comparisons; 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    rows = []
    parts = (networks.formula_weights, networks.unet_layers, diffusion, networks.sampling)
    parts += (networks.autoencoder_layers, figures, masks, networks.training)
    with jax.default_matmul_precision("highest"):
        for part in parts:
            for row in part(args.golden):
                rows.append(row)
                flag = "" if row.passed else "   BEYOND TOLERANCE"
                print(
                    f"{row.file:26} {row.what:70} {row.error:9.2g} (<= {row.tolerance:.2g}){flag}"
                )
                sys.stdout.flush()
    if args.out:
        args.out.write_text(table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
