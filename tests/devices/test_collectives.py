"""What the compiled training step of a DiT sends between eight devices: this much, and no more.

The CPU compiler stands for the others: it has the same partitioner and combines all-reduces as
they do, but keeps an all-reduce and a slice where they make a reduce-scatter, and gathers
parameters once where they gather again in the backward pass (it drops the barrier between).
"""

import math

import jax
import numpy as np
import pytest

from madad_jax.assembly import parts
from madad_jax.core import trees
from madad_jax.devices import hlo_costs, parameter_rules
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import compile_report
from tests.e2e import tiny_config

DEPTH, WIDTH, HEADS, BATCH = 2, 64, 8, 16
SCALARS = 1024  # bytes: loss, metrics, norms


@pytest.fixture(autouse=True)
def compile_quickly():
    """Cheaper machine code; the program's text is the same."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def config():
    c = tiny_config.get_config()
    c.data.latents = "cached"
    c.denoiser.update(hidden_size=WIDTH, depth=DEPTH, num_heads=HEADS, dropout=0.0)
    c.train.update(batch_size=BATCH, ema_decay=0.0)
    return c


@pytest.fixture(scope="module")
def params(config):
    """{path: shape} of the denoiser."""
    made = parts.assemble(config)
    detector, spec = made.method, made.train_spec(BATCH)
    tree = jax.eval_shape(lambda key: detector.init(key, spec), jax.random.key(0))
    return {path: leaf.shape for path, leaf in trees.flatten(tree).items()}


def compiled(config, **sizes):
    mesh = mesh_lib.make_mesh(**{"data": 1} | sizes)
    lowered = compile_report.denoiser_step(parts.assemble(config), mesh)[1]
    return compile_report.measure("step", lowered), mesh


def total(collectives, what="bytes"):
    return sum(c.times * getattr(c, what) for c in collectives)


def only(costs, *kinds):
    """The collectives, by kind; any of another kind, or over other than all devices, fails."""
    found: dict[str, list[hlo_costs.Collective]] = {kind: [] for kind in kinds}
    for c in costs.program.collectives:
        assert c.kind in kinds, f"unexpected {c.kind} of {c.shapes} from {c.source}"
        assert c.group_size == 8, f"{c.kind} over {c.groups}"
        found[c.kind].append(c)
    return found


def test_data_parallel_is_one_fused_all_reduce_of_the_gradient(config, params):
    costs, _ = compiled(config, data=8)
    (reduce,) = only(costs, "all-reduce")["all-reduce"]
    gradient = 4 * sum(map(math.prod, params.values()))
    assert reduce.times == 1 and 0 <= reduce.bytes - gradient < SCALARS


def test_fsdp_gathers_parameters_and_scatters_gradients(config, params):
    costs, mesh = compiled(config, fsdp=8)
    tree = {path: np.broadcast_to(np.float32(0), shape) for path, shape in params.items()}
    specs = parameter_rules.param_shardings(tree, mesh)
    split = 4 * sum(math.prod(params[path]) for path, s in specs.items() if "fsdp" in s.spec)
    whole = 4 * sum(map(math.prod, params.values())) - split
    found = only(costs, "all-gather", "all-reduce")
    assert total(found["all-gather"]) == split
    assert total(found["all-reduce"], "scattered") == split
    assert 0 <= total(found["all-reduce"]) - split - whole < SCALARS
    gathered = sorted(c.shapes[0].size for c in found["all-gather"])
    assert gathered == sorted(math.prod(params[p]) for p, s in specs.items() if "fsdp" in s.spec)


def test_tensor_parallel_is_two_all_reduces_a_block_and_pass(config, params):
    costs, _ = compiled(config, tensor=8)
    reduced = [s for c in only(costs, "all-reduce")["all-reduce"] for s in c.shapes]
    tokens = (config.data.image_size // 2 // 2) ** 2
    large = [s for s in reduced if s.size > 1]
    assert [s.dims for s in large] == [(BATCH * tokens, WIDTH)] * (2 * 2 * DEPTH)
    assert 4 * (len(reduced) - len(large)) < SCALARS


@pytest.mark.slow
def test_the_forward_pass_of_a_batch_needs_no_collective(config):
    mesh = mesh_lib.make_mesh(data=2, fsdp=4)
    config = config.copy_and_resolve_references()
    config.eval.batch_size = 8
    *_, (name, lowered) = compile_report.programs(parts.assemble(config), mesh)
    assert name == "image to anomaly map"
    assert compile_report.measure(name, lowered).program.collectives == ()
