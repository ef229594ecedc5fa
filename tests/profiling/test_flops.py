"""Operations counted from the shape equal those of the traced program's matrix products."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from maskflow_jax.models.conditioning import Conditions
from maskflow_jax.models.latte import Latte, LatteConfig, latte_config
from maskflow_jax.profiling import flops
from maskflow_jax.scenes.conditions import Scenes

CONFIG = LatteConfig(
    codebook_size=40, depth=4, width=24, num_heads=3, patch_size=2, mlp_ratio=3, remat="none"
)
FRAMES, GRID = 5, 8


def traced_flops(jaxpr):
    """Two operations per multiply and add of every dot_general, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(traced_flops(getattr(p, "jaxpr", p)) for p in inner)
    return total


def test_counted_operations_are_the_traced_ones():
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Latte(CONFIG, nnx.Rngs(0))))
    tokens = jax.ShapeDtypeStruct((1, FRAMES, GRID, GRID), jnp.int32)
    times = jax.ShapeDtypeStruct((1, FRAMES), jnp.float32)

    def run(params, tokens, times):
        return nnx.merge(graphdef, params).features(tokens, times)

    def head(params, features):
        return nnx.merge(graphdef, params).logits(features)

    features = jax.eval_shape(run, params, tokens, times)
    counted = flops.features_flops(CONFIG, FRAMES, GRID)
    assert counted == traced_flops(jax.make_jaxpr(run)(params, tokens, times).jaxpr)
    counted_head = flops.head_flops(CONFIG, FRAMES, GRID)
    assert counted_head == traced_flops(jax.make_jaxpr(head)(params, features).jaxpr)
    assert flops.training_flops(CONFIG, FRAMES, GRID) == 3 * (counted + counted_head)


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(num_words=5),
        Conditions(text_width=7, scope="all"),
        Conditions(text_width=7, text_update=True),
    ],
    ids=str,
)
def test_operations_of_captions_are_counted_too(conditions):
    config = dataclasses.replace(CONFIG, conditions=conditions)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0))))
    width = (7,) * (conditions.text_width > 0)
    scenes = Scenes(
        scene_id=jax.ShapeDtypeStruct((1, FRAMES), jnp.int32),
        captions=jax.ShapeDtypeStruct((1, 3, 4, *width), jnp.float32 if width else jnp.int32),
        caption_mask=jax.ShapeDtypeStruct((1, 3, 4), bool),
    )

    def run(params, scenes):
        tokens = jnp.zeros((1, FRAMES, GRID, GRID), jnp.int32)
        times = jnp.zeros((1, FRAMES))
        return nnx.merge(graphdef, params).features(tokens, times, scenes=scenes)

    counted = flops.features_flops(config, FRAMES, GRID, (3, 4))
    assert counted == traced_flops(jax.make_jaxpr(run)(params, scenes).jaxpr)
    assert counted > flops.features_flops(CONFIG, FRAMES, GRID)


def test_the_published_sizes_are_of_their_order():
    """Twice the parameters per patch, roughly, for a window of 16 frames of 256 patches."""
    config = latte_config("XL/2", codebook_size=16384)
    per_patch = flops.features_flops(config, 16, 32) / (16 * 256)
    assert per_patch == pytest.approx(2 * 449e6, rel=0.1)  # blocks without modulation
