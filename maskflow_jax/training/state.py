"""The train state: a plain dict of arrays, created in place on the devices that will hold it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maskflow_jax.parallel import sharding

TrainState = dict[str, Any]
"""`step` int32 scalar, `params`, `ema_params` (nested dicts of float32), `opt_state` (optax)."""


def init_state(
    build_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> tuple[nnx.GraphDef, TrainState]:
    """Initialises a model and its optimiser, sharded from the first moment.

    Args:
        build_model: random streams to model.
        optimizer: the optimiser.
        key: PRNG key of the initialisation.
        mesh: the mesh.

    Returns:
        The model's graph definition (`nnx.merge(graphdef, params)` is the model) and the state.
    """
    init = functools.partial(_new_state, build_model, optimizer)
    # Without out_shardings Adam's moments would come out replicated.
    shardings = sharding.state_shardings(mesh, jax.eval_shape(init, key))
    return _graphdef(build_model), jax.jit(init, out_shardings=shardings)(key)


def abstract_state(
    build_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[nnx.GraphDef, TrainState]:
    """As `init_state`, but shapes, types and shardings only; nothing is allocated."""
    init = functools.partial(_new_state, build_model, optimizer)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return _graphdef(build_model), _placed(shapes, sharding.state_shardings(mesh, shapes))


def _graphdef(build_model: Callable[[nnx.Rngs], nnx.Module]) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: build_model(nnx.Rngs(0))))


def _new_state(build_model, optimizer, key: jax.Array) -> TrainState:
    params = nnx.to_pure_dict(nnx.state(build_model(nnx.Rngs(key))))
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        # A copy: donating one buffer under two names is an error.
        "ema_params": jax.tree.map(jnp.copy, params),
        "opt_state": optimizer.init(params),
    }


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )


def abstract_params(build_model: Callable[[nnx.Rngs], nnx.Module], mesh: jax.sharding.Mesh) -> dict:
    """The shapes, types and shardings of a model's parameters; nothing is allocated."""
    shapes = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(build_model(nnx.Rngs(0)))))
    return _placed(shapes, sharding.state_shardings(mesh, shapes))


def state_from_weights(
    params: dict,
    ema_params: dict,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    step: int = 0,
) -> TrainState:
    """Makes a state of given weights with a fresh optimiser.

    Args:
        params: parameters, arrays of any kind.
        ema_params: averaged parameters.
        optimizer: the optimiser.
        mesh: the mesh.
        step: optimiser steps that the weights are said to have seen.
    """

    def place(tree):
        return jax.device_put(tree, sharding.state_shardings(mesh, tree))

    params, ema_params = place(params), place(ema_params)
    opt_shardings = sharding.state_shardings(mesh, jax.eval_shape(optimizer.init, params))
    return {
        "step": jax.device_put(jnp.asarray(step, jnp.int32), sharding.replicated(mesh)),
        "params": params,
        "ema_params": ema_params,
        "opt_state": jax.jit(optimizer.init, out_shardings=opt_shardings)(params),
    }


def parameter_count(params: dict) -> int:
    """Number of trainable scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
