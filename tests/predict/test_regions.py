import pytest

from madad_jax.predict import regions


@pytest.mark.parametrize(
    "point,side,tissue",
    [
        ((-26.0, -30.0, 26.0), "left", "white matter"),
        ((26.0, -30.0, 26.0), "right", "white matter"),
        ((0.0, -18.0, 5.0), "midline", "grey matter"),  # where the thalami touch
        ((-38.0, -26.0, 58.0), "left", "grey matter"),
        ((400.0, 0.0, 0.0), "right", "outside the template"),
    ],
)
def test_side_and_tissue(point, side, tissue):
    found = regions.describe(point)
    assert (found["side"], found["tissue"]) == (side, tissue) and side in found["name"]


def test_nearest_region_is_named_only_where_it_is_near():
    found = regions.describe((-12.0, -12.0, 6.0))
    assert found["nearest"] == "thalamus" and found["distance_mm"] < 5
    assert regions.describe((0.0, 0.0, -200.0))["nearest"] is None
