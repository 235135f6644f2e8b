import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madad_jax.core import errors
from madad_jax.diffusion import schedule
from tests.diffusion import fixtures

TABLES = ("timestep_map", "betas", "alphas_cumprod", "alphas_cumprod_prev")
# As printed by the official code.
BETAS = (
    0.0279072629,
    0.0754936373,
    0.1243959864,
    0.1771895254,
    0.2372815302,
    0.3098834401,
    0.404003143,
    0.5369981776,
    0.7438293669,
    0.999,
)
ALPHAS_CUMPROD = (
    0.97209273711,
    0.89870592060,
    0.78691051115,
    0.64747821115,
    0.49384359044,
    0.34080963976,
    0.20312147412,
    0.094045612677,
    0.024091724140,
    2.4091724140e-05,
)
OFFICIAL_MAPS = {
    10: list(range(10)),
    5: [0, 2, 4, 6, 8],
    4: [0, 3, 6, 9],
    3: [0, 4, 8],
    2: [0, 5],
}


def test_cosine_of_ten_steps_has_the_printed_numbers():
    s = schedule.make_schedule("cosine", 10)
    np.testing.assert_allclose(s.betas, BETAS, rtol=2e-9)
    np.testing.assert_allclose(s.alphas_cumprod, ALPHAS_CUMPROD, rtol=1e-10)
    assert s.alphas_cumprod_prev[0] == 1.0
    assert s.betas.dtype == s.alphas_cumprod.dtype == np.float64


@pytest.mark.parametrize("steps", OFFICIAL_MAPS)
def test_respacing_is_the_official_one(steps):
    golden = fixtures.load("b_diffusion")
    s = schedule.respace(schedule.make_schedule("cosine", 10), steps)
    assert s.timestep_map.tolist() == OFFICIAL_MAPS[steps]
    for table in TABLES:
        np.testing.assert_allclose(getattr(s, table), golden[f"ddim{steps}/{table}"], rtol=1e-12)


@pytest.mark.parametrize("spacing", schedule.SPACINGS)
@pytest.mark.parametrize("steps", range(1, 11))
def test_respacing_keeps_abar_at_the_kept_steps(steps, spacing):
    full = schedule.make_schedule("cosine", 10)
    s = schedule.respace(full, steps, spacing)
    kept = s.timestep_map
    assert s.num_steps == steps == len(kept)
    assert (np.diff(kept) > 0).all() and kept[0] >= 0 and kept[-1] <= 9
    np.testing.assert_allclose(s.alphas_cumprod, full.alphas_cumprod[kept], rtol=1e-10)
    if spacing == "trailing" or steps not in OFFICIAL_MAPS:
        assert kept[-1] == 9


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(1, 120),
    fraction=st.floats(0, 1),
    name=st.sampled_from(schedule.SCHEDULES),
    spacing=st.sampled_from(schedule.SPACINGS),
)
def test_any_schedule_falls_and_respaces(total, fraction, name, spacing):
    full = schedule.make_schedule(name, total)
    assert ((full.betas > 0) & (full.betas <= 0.999)).all()
    steps = max(1, round(fraction * total))
    s = schedule.respace(full, steps, spacing)
    assert len(set(s.timestep_map.tolist())) == steps
    # Exactly 1 where the linear schedule of few steps leaves less signal than float64 resolves.
    assert ((s.betas > 0) & (s.betas <= 1)).all()
    kept = full.alphas_cumprod[s.timestep_map]
    np.testing.assert_allclose(s.alphas_cumprod, kept, rtol=1e-9, atol=1e-15)


def test_respacing_twice_keeps_the_original_numbering():
    once = schedule.respace(schedule.make_schedule("cosine", 10), 5)
    assert schedule.respace(once, 3).timestep_map.tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule.make_schedule("cosin"), "diffusion.schedule: found 'cosin'.*cosine"),
        (lambda: schedule.make_schedule("cosine", 0), "diffusion.timesteps: found 0"),
        (
            lambda: schedule.respace(schedule.make_schedule(), 11),
            "sampler.steps: found 11, accepted: 1 to 10",
        ),
        (lambda: schedule.respace(schedule.make_schedule(), 0), "sampler.steps: found 0"),
        (
            lambda: schedule.respace(schedule.make_schedule(), 5, "even"),
            "sampler.spacing: found 'even'.*official",
        ),
    ],
)
def test_bad_options_name_the_key(call, message):
    with pytest.raises(errors.UserError, match=message):
        call()
