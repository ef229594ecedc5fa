"""The first state of a run: random parameters, or those of a model that is trained already."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from absl import logging
from flax import nnx

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import check_tokenizer
from maskflow_jax.io.weights import check_weights
from maskflow_jax.training.model_files import load_model, open_model
from maskflow_jax.training.state import (
    TrainState,
    abstract_params,
    init_state,
    state_from_weights,
)


def first_state(
    config: Config,
    build_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Makes the state that a new run starts from.

    With `run.initial_weights` the parameters and their average are the averaged parameters of that
    model; step and optimizer are new. A network with conditions may start from one without: what
    the latter lacks is initialised at random.

    Args:
        config: The config, with its tokenizer.
        build_model: Function from random streams to the network.
        optimizer: The optimizer.
        key: PRNG key of the initialisation.
        mesh: The mesh.

    Raises:
        FileNotFoundError: if there is no model of that name.
        ValueError: if the model is damaged, or its parameters do not fit the network.
        CheckpointError: if it is a run without a checkpoint that can be read.
    """
    if not config.run.initial_weights:
        return init_state(build_model, optimizer, key, mesh)[1]
    model = load_model(config.run.initial_weights, mesh)
    wanted = nnx.traversals.flatten_mapping(abstract_params(build_model, mesh))
    found = nnx.traversals.flatten_mapping(model.params)
    new = set()
    if config.scenes.active and not model.config.scenes.active:
        new = wanted.keys() - found.keys()
    check_weights(
        _shapes(found),
        _shapes({place: leaf for place, leaf in wanted.items() if place not in new}),
        f"the model of run.initial_weights, {config.run.initial_weights}, does not fit the config:",
    )
    logging.info(
        "starts from the weights of %s, step %d; %d of %d parameters are random",
        config.run.initial_weights,
        model.step,
        sum(wanted[place].size for place in new),
        sum(leaf.size for leaf in wanted.values()),
    )
    if new:
        _, state = init_state(build_model, optimizer, key, mesh)
        random = nnx.traversals.flatten_mapping(state["params"])
        found = {**found, **{place: random[place] for place in new}}
    params = nnx.traversals.unflatten_mapping(found)
    # A copy: donating one buffer under two names is an error.
    return state_from_weights(params, jax.tree.map(jnp.copy, params), optimizer, mesh)


def check_initial_weights(config: Config, workdir: Path) -> None:
    """Looks for the model of `run.initial_weights`, unless the run has begun.

    Args:
        config: The config, with its tokenizer.
        workdir: Folder of the run.

    Raises:
        FileNotFoundError: if there is no model of that name.
        ValueError: if its config is damaged, or another tokenizer made its data.
    """
    begun = any((Path(workdir) / "checkpoints").glob("[0-9]*"))
    if begun or not config.run.initial_weights:
        return
    model = open_model(config.run.initial_weights)
    check_tokenizer(
        to_dict(config.tokenizer),
        to_dict(model.config.tokenizer),
        other_name="model of run.initial_weights",
    )


def _shapes(leaves: dict) -> dict[str, tuple[int, ...]]:
    """Shapes by the dotted names of the parameters."""
    return {".".join(map(str, place)): leaf.shape for place, leaf in leaves.items()}
