"""The reader on a program written by hand in every form that XLA prints, and on compiled ones."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.devices import hlo_costs

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
PROGRAM = (FIXTURES / "collectives.hlo").read_text()


@pytest.fixture(scope="module")
def found():
    program = hlo_costs.read(PROGRAM)
    assert program.unknown_loops == 0
    return program, {(c.kind, c.times): c for c in program.collectives}


def test_every_collective_is_found_once_with_its_loop(found):
    program, table = found
    assert len(program.collectives) == 6
    assert set(table) == {(kind, 1) for kind in hlo_costs.KINDS} | {("all-reduce", 5)}
    assert table["all-reduce", 5].source == "in loop" and table["all-reduce", 5].bytes == 256


@pytest.mark.parametrize(
    ("kind", "size", "groups", "sent"),
    [
        ("all-reduce", 260, ((0, 1, 2, 3),), (2 * 260 - 256) * 3 / 4),
        ("all-gather", 64, ((0, 2, 1, 3),), 64 * 3 / 4),
        ("reduce-scatter", 256, ((0, 1), (2, 3)), 128),
        ("all-to-all", 64, ((0, 2), (1, 3)), 32),
        ("collective-permute", 32, ((0, 1), (1, 0)), 32),
    ],
)
def test_bytes_and_groups(found, kind, size, groups, sent):
    one = found[1][kind, 1]
    assert (one.bytes, one.groups, one.sent) == (size, groups, sent)


def test_an_all_reduce_that_is_only_sliced_is_a_reduce_scatter(found):
    assert found[1]["all-reduce", 1].scattered == 256, "the array, not the scalar beside it"
    assert found[1]["all-reduce", 5].scattered == 0


def test_products_in_a_loop_count_as_often_as_they_run(found):
    assert found[0].flops == 5 * 2 * 8**3


def test_a_loop_without_a_count_is_said():
    text = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    program = hlo_costs.read(text)
    assert program.unknown_loops == 1 and program.flops == 2 * 8**3


def _loop(x, w):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=10)[0]


def _conv(x, k):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, k, (2, 2), ((1, 1), (1, 1)), dimension_numbers=numbers)


@pytest.mark.parametrize(
    ("function", "shapes", "flops"),
    [
        (jnp.matmul, ((48, 32), (32, 64)), 2 * 48 * 32 * 64),
        (_loop, ((16, 16), (16, 16)), 10 * 2 * 16**3),
        (_conv, ((2, 8, 8, 4), (3, 3, 4, 6)), 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)),
    ],
)
def test_compiled_programs(function, shapes, flops):
    inputs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    compiled = jax.jit(function).lower(*inputs).compile()
    assert hlo_costs.read(compiled.as_text()).flops == flops


def test_bytes_agree_with_the_compiler_where_nothing_loops():
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32)

    def update(big, small, at):
        big = jax.lax.dynamic_update_slice(big, jnp.tanh(small), (at, 0))
        return big, (big[:8] @ big.T).sum()

    small = jax.ShapeDtypeStruct((4, 128), jnp.float32)
    at = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = jax.jit(update, donate_argnums=0).lower(x, small, at).compile()
    theirs = compiled.cost_analysis()["bytes accessed"]
    np.testing.assert_allclose(hlo_costs.read(compiled.as_text()).bytes, theirs, rtol=0.25)


def test_the_dearest_branch_of_a_conditional_counts():
    def choose(x, w):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    inputs = [jax.ShapeDtypeStruct((16, 16), jnp.float32)] * 2
    compiled = jax.jit(choose).lower(*inputs).compile()
    assert hlo_costs.read(compiled.as_text()).flops == 2 * 2 * 16**3
