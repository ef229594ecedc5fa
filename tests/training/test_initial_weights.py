"""Runs that start from the weights of a trained model, and models that do not fit."""

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import TOKENIZER, settings_of, tiny_config, write_world

from maskflow_jax.generation.trained_model import export_model
from maskflow_jax.parallel import sharding
from maskflow_jax.training import initial_weights, trainer
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.model_files import TrainedModel, load_model
from maskflow_jax.training.optimizer import make_optimizer

pytestmark = pytest.mark.usefixtures("compilation_cache")
SCENES = {"condition": "labels", "num_scenes": 2}
CONDITIONS = {"kind": "labels", "names": ["left", "right"]}


def write_model(directory, **changes):
    """Exports a model of random weights."""
    config = tiny_config(**changes)
    build = model_builder(config)
    graphdef, params = nnx.split(build(nnx.Rngs(7)))
    model = TrainedModel(
        config=config,
        graphdef=graphdef,
        params=nnx.to_pure_dict(params),
        step=5,
        directory=directory,
    )
    export_model(model, directory, dtype="float32")
    return model.params


def first_state(**changes):
    config = tiny_config(**changes)
    mesh = sharding.make_mesh()
    build, optimizer = model_builder(config), make_optimizer(config.optimizer)
    return initial_weights.first_state(config, build, optimizer, jax.random.key(0), mesh)


def test_the_parameters_are_those_of_the_model(tmp_path):
    params = write_model(tmp_path / "model")
    state = first_state(run__initial_weights=str(tmp_path / "model"), model__isolated_context=True)
    for name in ("params", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, state[name], params)
    assert state["step"] == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state["opt_state"]))
    # The state is donated to the train step: no buffer may have two names.
    leaves = jax.tree.leaves((state["params"], state["ema_params"]))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_network_with_conditions_starts_from_one_without(tmp_path):
    params = write_model(tmp_path / "model")
    state = first_state(
        run__initial_weights=str(tmp_path / "model"), scenes=SCENES, conditions=CONDITIONS
    )
    wanted = nnx.traversals.flatten_mapping(params)
    found = nnx.traversals.flatten_mapping(state["params"])
    for place, leaf in wanted.items():
        np.testing.assert_array_equal(found[place], leaf)
    assert found.keys() > wanted.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__width": 32}, r"(?s)does not fit the config:.*has shape \(.*asks for"),
        ({"model__depth": 4}, r"(?s)does not fit the config:.*has shape \(1.*asks for \(2"),
    ],
)
def test_a_network_of_another_size_is_refused(tmp_path, changes, message):
    write_model(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        first_state(run__initial_weights=str(tmp_path / "model"), **changes)


def test_a_network_without_conditions_does_not_start_from_one_with(tmp_path):
    write_model(tmp_path / "model", scenes=SCENES, conditions=CONDITIONS)
    with pytest.raises(ValueError, match=r"(?s)does not fit the config:.*unexpected scenes"):
        first_state(run__initial_weights=str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("tokenizer", "name", "error", "message"),
    [
        (TOKENIZER, "nowhere", FileNotFoundError, "no model at 'nowhere'"),
        ({**TOKENIZER, "sha256": "1" * 64}, "", ValueError, "model of run.initial_weights"),
    ],
)
def test_another_model_is_refused_before_the_folder_is_made(
    tmp_path, tokenizer, name, error, message
):
    write_world(tmp_path)
    write_model(tmp_path / "model", tokenizer=tokenizer)
    settings = settings_of(tmp_path, run__initial_weights=name or str(tmp_path / "model"))
    with pytest.raises(error, match=message):
        trainer.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_another_and_goes_on_without_it(tmp_path):
    write_world(tmp_path)
    still = {"optimizer__learning_rate": 1e-12, "optimizer__ema_decay": 0.0}
    trainer.train(settings_of(tmp_path, run__num_steps=2), tmp_path / "first")
    initial = {"run__initial_weights": str(tmp_path / "first"), **still}
    trainer.train(settings_of(tmp_path, run__num_steps=1, **initial), tmp_path / "second")
    first, second = load_model(tmp_path / "first"), load_model(tmp_path / "second")
    assert (first.step, second.step) == (2, 1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), first.params, second.params
    )
    (tmp_path / "first").rename(tmp_path / "moved")
    assert trainer.train(settings_of(tmp_path, run__num_steps=2, **initial), tmp_path / "second")
    assert load_model(tmp_path / "second").step == 2
