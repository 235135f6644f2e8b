"""Scans of one known head: the ICBM152 brain, seen by scanners of any angle and voxel size."""

import dataclasses
import functools

import nibabel as nib
import numpy as np
from scipy import ndimage

from madad_jax.prepare import subject
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import preparation, registration, resample, volumes

# A lesion in the white matter of the left hemisphere, between z = 0 and 19 mm, and a smaller one.
LESIONS = (((-28.0, -20.0, 12.0), 11.0), ((25.0, 10.0, 8.0), 7.0))


@functools.lru_cache(maxsize=1)
def head():
    """The brain at 2 mm, smoothed so that what is left is due to the code and not to voxels."""
    image, mask, grid = registration.template_brain()
    smooth = ndimage.gaussian_filter(image, 1.0) * 1000 + 50
    return np.where(mask, smooth, 0).astype(np.float32), mask, grid


def box(voxel=(2.0, 2.0, 2.0), turn=0.0):
    """Voxels that cover the brain: sizes in mm, turned about the x axis by degrees."""
    shape = tuple(int(n) for n in np.ceil(np.array((190.0, 230.0, 190.0)) / voxel))
    angle = np.deg2rad(turn)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * voxel
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.array((0.0, -18.0, 8.0)) - middle
    return geometry_lib.VoxelGrid(shape, affine)


def see(grid, moved=None):
    """(image, brain, lesion) of the head on a grid; `moved`: scan mm -> template mm."""
    moved = np.eye(4) if moved is None else moved
    image, mask, at = head()
    seen = resample.resample(image, at, grid, moved, order=1)
    brain = resample.resample(mask, at, grid, moved, order=0)
    index = np.indices(grid.shape).reshape(3, -1)
    points = (moved @ grid.affine)[:3] @ np.vstack([index, np.ones(index.shape[1])])
    lesion = np.zeros(index.shape[1], bool)
    for centre, radius in LESIONS:
        lesion |= np.linalg.norm(points - np.array(centre)[:, None], axis=0) <= radius
    lesion = lesion.reshape(grid.shape) & brain
    seen = np.where(brain, np.maximum(seen, 1.0), 0.0)
    return np.where(lesion, 1200.0, seen).astype(np.float32), brain, lesion


def reorder(array, affine, code):
    """The same scan with its axes in another order, e.g. `PSR`."""
    start = nib.orientations.io_orientation(affine)
    order = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(code))
    moved = affine @ nib.orientations.inv_ornt_aff(order, array.shape)
    return nib.orientations.apply_orientation(array, order), moved


def save(path, array, affine, *, kind=np.float32, code=1):
    """Writes a NIfTI file."""
    image = nib.Nifti1Image(np.asarray(array).astype(kind), affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return str(path)


def write(folder, name, grid=None, *, moved=None, code="RAS", voxel=(2.0, 2.0, 2.0), lesion=True):
    """A scan's files in `folder`: {name}_T1.nii.gz, and {name}_seg.nii.gz; as an `Item`."""
    grid = grid or box(voxel)
    image, _, truth = see(grid, moved)
    path = save(folder / f"{name}_T1.nii.gz", *reorder(image, grid.affine, code))
    segmentation = ""
    if lesion:
        where = folder / f"{name}_seg.nii.gz"
        segmentation = save(where, *reorder(truth, grid.affine, code), kind=np.uint8)
    return subject.Item(
        scan=name, subject=name, split="test", images={"T1": path}, segmentation=segmentation
    )


def options(**values):
    """`subject.Options` of what stands in it and in its `Preparation`."""
    return change(subject.Options(), **values)


def change(before, **values):
    """`subject.Options` with other values, each where it belongs."""
    pixels = {field.name for field in dataclasses.fields(preparation.Preparation)}
    changed = dataclasses.replace(
        before.preparation, **{k: v for k, v in values.items() if k in pixels}
    )
    others = {k: v for k, v in values.items() if k not in pixels}
    return dataclasses.replace(before, preparation=changed, **others)


def volume(array, affine=None):
    """A `Volume` in memory."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    return volumes.from_array(np.asarray(array, np.float32), affine, source="memory")


def dice(first, second):
    return 2.0 * (first & second).sum() / (first.sum() + second.sum())
