"""Shared settings of methods on latents, as flat tables for configs/parts/protocols.py."""

# For two CPU cores, on top of what the cohort's config sets for MAD-AD (network, optimiser).
SMALL = {
    "denoiser.residual_x0": False,  # the network predicts a difference already
    "train.steps": 600,
    "train.batch_size": 16,
    "train.accum_steps": 1,
    "optim.lr": 2e-3,
    "optim.weight_decay": 0.0,
}
