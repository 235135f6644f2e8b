"""Tiny PNG trees and a source without files."""

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_slice(tmp_path):
    """write(split, "id-slice_3", T1=array, brainmask=array, ...) under tmp_path."""

    def write(split, stem, root=tmp_path, **kinds):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        for kind, pixels in kinds.items():
            assert cv2.imwrite(str(folder / f"{stem}-{kind}.png"), pixels)
        return folder

    return write


class Numbered:
    """Slices whose every pixel is their own number over 100."""

    def __init__(self, count, side=4):
        self.count = count
        self.side = side

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((self.side, self.side, 1), index / 100.0, np.float32)
        mask = np.ones((self.side, self.side), bool)
        return {
            "image": image,
            "brain_mask": mask,
            "segmentation": mask & (index % 2 == 0),
            "has_segmentation": np.bool_(True),
        }


@pytest.fixture
def numbered():
    return Numbered
