"""The train state: a plain dict of arrays, created on the devices that hold it."""

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
    """Initialises a model and its optimiser with sharded arrays.

    Args:
        build_model: Function of random streams to a model.
        optimizer: The optimiser.
        key: PRNG key of the initialisation.
        mesh: The mesh.

    Returns:
        The model's graph definition (`nnx.merge(graphdef, params)` is the model) and the state.
    """
    init = functools.partial(_new_state, build_model, optimizer)
    # Without out_shardings Adam's moments would be replicated.
    shardings = sharding.state_shardings(mesh, jax.eval_shape(init, key))
    return _graphdef(build_model), jax.jit(init, out_shardings=shardings)(key)


def abstract_state(
    build_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[nnx.GraphDef, TrainState]:
    """Returns the result of `init_state` as shapes, types and shardings; allocates nothing."""
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
        # A copy, because donating one buffer twice is an error.
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
    """Returns the shapes, types and shardings of a model's parameters; allocates nothing."""
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
    """Returns a state of given weights with a new state of the optimiser.

    Args:
        params: Parameters, arrays of any kind.
        ema_params: Averaged parameters.
        optimizer: The optimiser.
        mesh: The mesh.
        step: Number of steps after which the weights are recorded.
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
    """Returns the number of trainable scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
