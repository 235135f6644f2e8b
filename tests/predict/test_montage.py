"""The page's still picture."""

import io
import types

import numpy as np
import pytest
from PIL import Image

from madad_jax.predict import montage


def _result(shape=(60, 70, 40), sides=(1.0, 1.5, 2.0)):
    data = np.full(shape, 100.0, np.float32)
    data[:, : shape[1] // 2] = 300.0  # The back is brighter.
    data[-(shape[0] // 50 + 1) :] = 600.0  # So that nothing else is white.
    labels = np.zeros(shape, np.int32)
    labels[30:40, 50:60, 20], labels[5, 5, 8] = 1, 2
    volume = types.SimpleNamespace(data=data, voxel_mm=np.array(sides))
    places = [{"voxel": [35, 55, 20]}, {"voxel": [5, 5, 8]}]
    return types.SimpleNamespace(
        volume=volume, labels=labels, candidates=places, reconstruction=data
    )


def _draw(result):
    content = montage.draw_slices(result)
    assert content == montage.draw_slices(result)
    return np.asarray(Image.open(io.BytesIO(content)))


def test_eight_slices_with_titles_on_white():
    picture = _draw(_result())
    assert picture.shape == (612, 1080) and picture.dtype == np.uint8
    for row in range(2):
        for column in range(4):
            cell = picture[306 * row :, 270 * column :][:306, :270]
            assert (cell[:22] < 128).any() and (cell[:, 0] == 255).all()
            # y upwards: the bright back lies below.
            assert cell[260, 135] > cell[60, 135]


@pytest.mark.parametrize("shape", [(60, 70, 40), (700, 800, 40)])
def test_candidates_are_outlined_however_small(shape):
    result = _result(shape)
    outlined = _draw(result)
    result.labels[:] = 0
    plain = _draw(result)
    changed = outlined != plain
    titles = np.zeros_like(changed)
    titles[:22] = titles[306:328] = True
    cells = (changed & ~titles).reshape(2, 306, 4, 270).any((1, 3))
    assert cells.sum() == 2
    lines = outlined[changed & ~titles]
    assert {0, 255} <= set(lines.tolist()), "white on black"
