"""A folder of drawn slices, for suites that read: smooth texture in an ellipse, no patient."""

import pathlib

import cv2
import numpy as np
from scipy import ndimage


def write(root: pathlib.Path, modality: str, size: int, counts: dict[str, int]) -> None:
    """{split: how many slices} as 8-bit PNG files in the layout of data/sources/png_folder.py."""
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    brain = (rows / 0.42) ** 2 + (columns / 0.34) ** 2 < 1
    for number, (split, count) in enumerate(counts.items()):
        draw = np.random.default_rng(number)
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            texture = ndimage.gaussian_filter(draw.normal(size=(size, size)), 0.01 * size)
            image = np.where(brain, 120 + 40 * texture / texture.std(), 0).clip(0, 255)
            stem = root / split / f"{split}{i:04d}-slice_80"
            cv2.imwrite(f"{stem}-{modality}.png", image.astype(np.uint8))
            cv2.imwrite(f"{stem}-brainmask.png", brain.astype(np.uint8) * 255)
