"""The typed config: strict reading, what may change on restart, and changes by text."""

import dataclasses
import json

import pytest
from tiny import TOKENIZER, tiny_config

from maskflow_jax.config import Config
from maskflow_jax.config_files import (
    change_sampling,
    default_config,
    differences,
    read_config,
    read_sampler,
    sampler_settings,
    to_dict,
)
from maskflow_jax.io.settings import SettingsError, read_integers
from maskflow_jax.sampling.samplers import FM, MGM, SAMPLERS


def changed(**changes):
    config = default_config().to_dict()
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section] = {**config.get(section, {}), field: value} if field else value
    return config


def test_the_defaults_are_a_config_and_come_back_from_json():
    config = read_config(default_config())
    assert config == Config()
    assert read_config(json.loads(json.dumps(to_dict(tiny_config())))) == tiny_config()


def test_unknown_settings_are_named_with_the_nearest_that_exists():
    wrong = changed(optimiser={}, flow__mask_cee=True, data__clip_framez=3, sampling__strid=1)
    with pytest.raises(SettingsError, match="did you mean 'optimizer'") as caught:
        read_config(wrong)
    for name in ("flow.mask_ce'", "data.clip_frames'", "sampling.stride'"):
        assert f"did you mean '{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__learning_rate": -1.0}, "optimizer: learning_rate is -1.0; use 0 or more"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate is nan"),
        ({"optimizer__ema_decay": 1.5}, "ema_decay is 1.5; use 0 to 1"),
        ({"optimizer__clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"optimizer__decay_steps": 5, "optimizer__warmup_steps": 5}, "raise decay_steps"),
        ({"data__num_workers": -1}, "data: num_workers is -1; use 0 or more"),
        ({"data__batch_size": 2.5}, "data.batch_size is 2.5; it must be of type int"),
        ({"run__num_steps": True}, "run.num_steps is True; it must be of type int"),
        ({"seed": -1}, "seed is -1"),
        ({"model": 3}, "model is 3; it must be a section"),
        ({"sampling__sampler": {"name": "foo"}}, "unknown sampler 'foo' in sampling.sampler.name"),
        (
            {"sampling__sampler": {"name": "fm", "noise": "random"}},
            "no setting 'sampling.sampler.n",
        ),
        ({"sampling__sampler": {"name": "mgm", "num_steps": 0}}, "num_steps is 0"),
        ({"tokenizer": {"sha256": "0"}}, "tokenizer.codebook_size is missing"),
        ({"format": 99}, "format 99, this version reads"),
    ],
)
def test_wrong_values_are_refused_by_name(changes, message):
    with pytest.raises(SettingsError) as caught:
        read_config(changed(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_stands_in_a_config_with_its_own_settings_only(name):
    sampler = SAMPLERS[name]()
    settings = sampler_settings(sampler)
    own = {field.name for field in dataclasses.fields(sampler)}
    assert set(settings.to_dict()) == {"name", *own}
    assert read_sampler(settings.to_dict()) == sampler
    assert read_sampler(to_dict(sampler)) == sampler


def test_settings_that_may_be_none_can_be_set_on_a_command_line():
    config = default_config()
    config.model.variant = "B/2"
    config.sampling.decoding.top_k = 5
    config.sampling.sampler.independent_time = None
    read = read_config(config)
    assert (read.model.variant, read.sampling.decoding.top_k) == ("B/2", 5)
    assert read.sampling.sampler.independent_time is None
    with pytest.raises(TypeError):
        config.sampling.decoding.top_k = "many"


def test_differences_name_what_may_not_change():
    old, new = (
        tiny_config(),
        tiny_config(seed=1, model__width=32, tokenizer={**TOKENIZER, "sha256": "1"}),
    )
    assert [line.partition(":")[0] for line in differences(old, new)] == [
        "model.width",
        "seed",
        "tokenizer.sha256",
    ]
    free = tiny_config(
        run={"num_steps": 99, "log_every": 3},
        mesh={"fsdp": 2},
        sampling={"context_frames": 1, "sampler": {"name": "fm"}},
        data__directory="/moved",
        data__tokenizer="/moved/tokenizer",
        data__num_workers=4,
        model__remat="none",
        optimizer__micro_batches=2,
        tokenizer={**TOKENIZER, "name": "renamed"},
    )
    assert differences(old, free) == []


def test_sampling_is_changed_by_text():
    sampling = tiny_config().sampling
    assert change_sampling(sampling, []) == sampling
    found = change_sampling(
        sampling,
        ["sampler.noise=random", "decoding.temperature=0.9", "stride=1", "context_frames=3"],
    )
    assert found.sampler == MGM(noise="random")
    assert (found.decoding.temperature, found.stride, found.context_frames) == (0.9, 1, 3)
    # Another sampler starts from its own defaults: nothing is inherited.
    other = change_sampling(sampling, ["sampler.num_steps=7", "sampler.name=fm"])
    assert other.sampler == FM(num_steps=7)
    for change, message in (
        ("stride", "is not NAME=VALUE"),
        ("strid=1", "did you mean 'sampling.stride'"),
        ("sampler.noize=1", "did you mean 'sampling.sampler.noise'"),
        ("samplr.noise=1", "no setting 'samplr.noise'"),
        ("decoding.temperature=-1", "temperature is -1"),
        ("sampler.name=foo", "unknown sampler 'foo'"),
    ):
        with pytest.raises(SettingsError, match=message):
            change_sampling(sampling, [change])


def test_whole_numbers_are_read_from_text():
    assert read_integers("factors", ["1", "20"]) == [1, 20]
    with pytest.raises(ValueError, match=r"factors is 1,a; give whole numbers"):
        read_integers("factors", ["1", "a"])
