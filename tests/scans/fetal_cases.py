"""A brain as small and as bright as a fetus' on T2: ICBM152 shrunk to 45 %, with fluid bright."""

import functools

import numpy as np
from scipy import ndimage

from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import registration, resample, volumes
from tests.scans import cases

SHRUNK = 0.45
PLACE = np.array((31.0, -12.0, 140.0))  # Of ICBM152's origin in the template's mm.


@functools.lru_cache(maxsize=1)
def head():
    """(image, mask, grid) in the template's mm, voxels of 0.9 mm."""
    bright, mask, grid = registration.template_brain()
    image = 1100.0 - 800.0 * ndimage.gaussian_filter(bright, 1.0)
    affine = np.diag([SHRUNK] * 3 + [1.0]) @ grid.affine
    affine[:3, 3] += PLACE
    image = np.where(mask, image, 0.0).astype(np.float32)
    return image, mask, geometry_lib.VoxelGrid(grid.shape, affine)


def write_template(folder, name="STA28.nii.gz", factor=1.0):
    """The template's file; `factor` makes another file of the same brain."""
    image, _, grid = head()
    return cases.save(folder / name, image * factor, grid.affine)


def move(degrees=25.0, shift=(12.0, -7.0, 20.0), stretch=(1.0, 1.0, 1.0)):
    """scan mm -> template mm: a head that is turned about z and a little about x."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = z @ x * stretch
    # About the brain's middle, so that it stays within the grid of `see`.
    middle = PLACE + np.array((0.0, -18.0, 8.0)) * SHRUNK
    matrix[:3, 3] = middle - matrix[:3, :3] @ (middle + shift)
    return matrix


def see(moved=None, voxel=1.0, side=132.0):
    """(array, affine) of a scan of the brain alone; `moved`: scan mm -> template mm."""
    moved = np.eye(4) if moved is None else moved
    image, mask, at = head()
    count = int(side / voxel)
    affine = np.diag([voxel] * 3 + [1.0])
    centre = np.linalg.inv(moved) @ np.array([*np.add(PLACE, (0.0, -8.0, 4.0)), 1.0])
    affine[:3, 3] = centre[:3] - voxel * (count - 1) / 2
    grid = geometry_lib.VoxelGrid((count,) * 3, affine)
    seen = resample.resample(image, at, grid, moved, order=1)
    brain = resample.resample(mask, at, grid, moved, order=0)
    return np.where(brain, np.maximum(seen, 1.0), 0.0).astype(np.float32), affine


def volume(moved=None, **sizes):
    """`see` as a `Volume`."""
    return volumes.from_array(*see(moved, **sizes), source="fetus")
