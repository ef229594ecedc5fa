"""Every setting does something: a changed value changes the samples, the update or the program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from distributions import Functions, quick_jit, window_sampler
from flax import nnx
from tiny import tiny_config

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.models.conditioning import Conditions
from maskflow_jax.models.latte import Latte, LatteConfig
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.types import WindowTokens
from maskflow_jax.training.building import make_flow
from maskflow_jax.training.optimizer import ema_rate, make_optimizer

T, SIDE, K, STEPS = 4, 3, 6, 5

# For every field a value to start from, where that is not the default, and another one.
SAMPLER_CHANGES = {
    ("mgm", "num_steps"): ({}, 3),
    ("mgm", "counts"): ({}, "linear"),
    ("mgm", "noise"): ({}, "random"),
    ("mgm", "noise_scale"): ({"noise": "linear"}, 0.5),
    ("mgm", "independent_time"): ({}, 0.7),
    ("mgm", "revealed_times"): ({"independent_time": None}, True),
    ("halton", "num_steps"): ({}, 3),
    ("halton", "counts"): ({}, "constant"),
    ("halton", "independent_time"): ({}, 0.7),
    ("halton", "revealed_times"): ({"independent_time": None}, True),
    ("remdm", "num_steps"): ({}, 3),
    ("remdm", "remask"): ({"strength": 0.5}, "cap"),
    ("remdm", "strength"): ({}, 0.9),
    ("remdm", "independent_time"): ({}, 0.7),
    **{(name, "num_steps"): ({}, 3) for name in ("fm", "pyramid", "rolling")},
    **{(name, "transition"): ({}, "euler") for name in ("fm", "pyramid", "rolling")},
    **{(name, "independent_time"): ({}, 0.7) for name in ("fm", "pyramid", "rolling")},
    ("mgm", "decoding_temperature"): ({}, 3.0),
    ("mgm", "decoding_top_k"): ({}, 2),
    ("mgm", "decoding_top_p"): ({}, 0.3),
    ("mgm", "guidance_weight"): ({}, 4.0),
    ("mgm", "guidance_time"): ({"guidance_weight": 4.0}, 0.9),
    ("mgm", "guidance_steps"): ({"guidance_weight": 4.0}, 1),
    ("mgm", "context_time"): ({}, 0.3),
}


def test_every_field_of_every_sampler_has_a_change():
    fields = {
        (name, field.name) for name, kind in SAMPLERS.items() for field in dataclasses.fields(kind)
    }
    assert fields <= SAMPLER_CHANGES.keys()


@functools.cache
def sampled(name, settings):
    """Tokens and steps of a window whose network answers to all that it is shown."""
    settings = {"num_steps": STEPS} | dict(settings)

    def features(x, t):
        state = jnp.mean(jnp.sin(1.7 * x), axis=(1, 2, 3))[:, None] + 3 * jnp.sin(2 * t)
        return state[:, :, None, None]  # [B, T, 1, 1]

    def logits(features):
        places = jnp.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1)
        angles = 5 * features[:, :, :, :, None] + jnp.arange(K) + places
        return 1.5 * jnp.cos(angles)

    # A frame of context, and another that is known in part.
    known = jnp.broadcast_to((jnp.arange(T) < 1)[:, None, None], (8, T, SIDE, SIDE))
    known = known.at[:, 2, :2].set(True)
    tokens = jnp.broadcast_to(jnp.arange(8)[:, None, None, None] % K, known.shape)
    sampler = window_sampler(name, "sigmoid", **settings)
    stages = ("start", "finish") if name == "rolling" else ("chunk",)

    @quick_jit
    def run(keys):
        x, found = jnp.where(known, tokens, K), []
        for stage in stages:
            x, steps = sampler(
                Functions(features, logits, K),
                keys,
                WindowTokens(x, known),
                context_frames=1,
                stage=stage,
            )
            found += [x, steps]
        return jnp.stack(found)

    return np.asarray(run(jax.random.split(jax.random.key(0), 8)))


@pytest.mark.parametrize(("name", "field"), SAMPLER_CHANGES)
def test_a_sampler_answers_to_its_settings(name, field):
    start, value = SAMPLER_CHANGES[name, field]
    before = sampled(name, tuple(start.items()))
    after = sampled(name, (*((k, v) for k, v in start.items() if k != field), (field, value)))
    assert np.any(before != after)


def test_guidance_times_are_the_papers():
    times = {name: kind.guidance_time for name, kind in SAMPLERS.items()}
    assert times.pop("mgm") == times.pop("halton") == 0.3
    assert set(times.values()) == {0.9}


OPTIMIZER_CHANGES = {
    "learning_rate": 2e-3,
    "warmup_steps": 3,
    "decay_steps": 6,
    "final_learning_rate_fraction": 0.5,
    "beta1": 0.5,
    "beta2": 0.5,
    "weight_decay": 0.3,
    "clip_norm": 0.01,
}
START = {"learning_rate": 1e-2, "decay_steps": 5, "clip_norm": 10.0}


def updates_of(config):
    """Parameters after a few steps with gradients that change."""
    optimizer = make_optimizer(config)
    params = jnp.linspace(0.5, 1.5, 6)
    state = optimizer.init(params)
    for step in range(4):
        gradient = jnp.sin(jnp.arange(6.0) * (step + 1)) * (step + 1)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


@pytest.mark.parametrize("field", OPTIMIZER_CHANGES)
def test_the_update_answers_to_its_settings(field):
    before, after = (
        updates_of(OptimizerConfig(**START | changes))
        for changes in ({}, {field: OPTIMIZER_CHANGES[field]})
    )
    assert np.abs(before - after).max() > 1e-5


def test_every_field_of_the_optimizer_has_a_change():
    average = {"ema_decay", "ema_warmup"}  # below
    parts = {"micro_batches"}  # must change nothing: test_parts_of_a_batch_add_up_to_the_whole
    fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
    assert fields == OPTIMIZER_CHANGES.keys() | average | parts


@pytest.mark.parametrize("step", [0, 3, 40])
def test_the_average_follows_its_decay_and_its_warm_up(world, step):
    """A warm-up that stays at its first step would forget nearly all of every step."""
    settings = dataclasses.replace(OptimizerConfig(), ema_decay=0.9, ema_warmup=True)
    expected = 1 - min(0.9, (1 + step) / (10 + step))
    assert float(ema_rate(settings, jnp.int32(step))) == pytest.approx(expected)
    plain = dataclasses.replace(settings, ema_warmup=False)
    assert float(ema_rate(plain, jnp.int32(step))) == pytest.approx(0.1)


FLOW_CHANGES = [
    ({}, {"schedule": "linear"}),
    ({}, {"sigmoid": {"start": -2.0}}),
    ({}, {"sigmoid": {"end": 2.0}}),
    ({}, {"sigmoid": {"tau": 0.5}}),
    ({"schedule": "cubic"}, {"cubic": {"a": 0.5}}),
    ({"schedule": "cubic"}, {"cubic": {"b": 1.0}}),
    ({}, {"frame_times": "constant"}),
    ({}, {"weighting": "none"}),
    ({}, {"snr": {"fused": False}}),
    ({}, {"snr": {"decay": 0.5}}),
    ({}, {"snr": {"clip": 3.0}}),
    ({}, {"snr": {"form": "paper"}}),
]


def flow_numbers(changes):
    """Times, revealed shares and weights of a flow."""
    flow = make_flow(tiny_config(flow={"schedule": "sigmoid", "weighting": "snr", **changes}))
    times = flow.frame_times(jax.random.key(0), 4, 6)
    grid = jnp.linspace(0.1, 0.9, 6)[None]
    return np.concatenate(
        [np.ravel(a) for a in (times, flow.schedule.kappa(grid), flow.weigh(grid))]
    )


@pytest.mark.parametrize(("start", "change"), FLOW_CHANGES)
def test_the_flow_answers_to_its_settings(start, change):
    assert np.any(flow_numbers(start) != flow_numbers(start | change))


MODEL = {"codebook_size": 7, "depth": 2, "width": 32, "num_heads": 2, "patch_size": 2}
MODEL_CHANGES = {
    "codebook_size": 8,
    "depth": 4,
    "width": 64,
    "num_heads": 4,
    "patch_size": 1,
    "mlp_ratio": 2,
    "time_conditioning": False,
    "dtype": "bfloat16",
    "remat": "none",
    "isolated_context": True,
    "conditions": Conditions(num_labels=3),
}


@functools.cache
def program(changes):
    """The traced gradient of a network."""
    model = nnx.eval_shape(lambda: Latte(LatteConfig(**MODEL | dict(changes)), nnx.Rngs(0)))
    graphdef, params = nnx.split(model)

    def loss(params, tokens, times):
        network = nnx.merge(graphdef, params)
        return jnp.sum(network.logits(network.features(tokens, times)))

    shapes = jax.ShapeDtypeStruct((1, 3, 4, 4), jnp.int32), jax.ShapeDtypeStruct((1, 3), "float32")
    return str(jax.make_jaxpr(jax.grad(loss))(params, *shapes))


@pytest.mark.parametrize("field", MODEL_CHANGES)
def test_the_network_answers_to_its_settings(field):
    assert program(()) != program(((field, MODEL_CHANGES[field]),))


def test_every_field_of_the_network_has_a_change():
    fields = {field.name for field in dataclasses.fields(LatteConfig)}
    assert fields == MODEL_CHANGES.keys() | {"attention"}  # test_attention.py


INITIAL_DEVIATIONS = {
    "token_embedding": 1.0,
    "time_embedding.fc": 0.02,
    "modulation": 0.0,
    "head.kernel": 0.0,
    "bias": 0.0,
}


def test_initial_deviations():
    """As the table says; all other kernels are Xavier-uniform, of a deviation by their shape."""
    config = LatteConfig(**MODEL | {"width": 128, "codebook_size": 64})
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.state(Latte(config, nnx.Rngs(0))))())
    seen = set()
    for path, leaf in jax.tree.leaves_with_path(params):
        name = ".".join(str(part.key) for part in path)
        kinds = [kind for kind in reversed(INITIAL_DEVIATIONS) if kind in name]
        xavier = np.sqrt(2 / sum(leaf.shape[-2:]))
        expected = INITIAL_DEVIATIONS[kinds[0]] if kinds else xavier
        seen |= set(kinds)
        np.testing.assert_allclose(np.std(leaf), expected, rtol=0.1, err_msg=name)
    assert seen == INITIAL_DEVIATIONS.keys()
