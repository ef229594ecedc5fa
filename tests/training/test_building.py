"""From a config to the network and the objective that it names."""

import pytest
from tiny import tiny_config

from maskflow_jax.flow.frame_times import FRAME_TIMES
from maskflow_jax.training.building import make_flow, make_latte_config, make_noise_schedule


def test_a_variant_replaces_the_sizes():
    named = make_latte_config(tiny_config(model={"variant": "B/4", "dtype": "bfloat16"}))
    assert (named.depth, named.width, named.num_heads, named.patch_size) == (12, 768, 12, 4)
    assert named.dtype == "bfloat16"
    sizes = make_latte_config(tiny_config())
    assert (sizes.depth, sizes.width, sizes.codebook_size) == (2, 16, 8)


@pytest.mark.parametrize("name", FRAME_TIMES)
def test_frame_times_are_the_configs(name):
    flow = make_flow(tiny_config(flow__frame_times=name))
    assert flow.frame_times is FRAME_TIMES[name]
    assert (flow.mask_id, flow.schedule.name) == (8, "quadratic")


def test_parameters_of_a_schedule_reach_it():
    wide = tiny_config(flow__schedule="sigmoid", flow__sigmoid={"end": 6.0})
    plain = tiny_config(flow__schedule="sigmoid")
    assert make_noise_schedule(wide).kappa(0.5) != make_noise_schedule(plain).kappa(0.5)
    cubic = tiny_config(flow__schedule="cubic", flow__cubic={"a": 1.0})
    assert make_noise_schedule(cubic).kappa(0.1) > make_noise_schedule(
        tiny_config(flow__schedule="cubic")
    ).kappa(0.1)


def test_the_likelihood_bound_is_over_all_positions():
    assert make_flow(tiny_config(flow__weighting="elbo")).mean_over == "all"
    assert make_flow(tiny_config()).mean_over == "masked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow__schedule": "lienar"}, "unknown flow.schedule 'lienar'.*linear, quadratic"),
        ({"flow__frame_times": "frames"}, "unknown flow.frame_times 'frames'.*constant, mixed"),
        ({"flow__weighting": "snrr"}, "unknown flow.weighting 'snrr'.*none, snr, elbo"),
    ],
)
def test_unknown_names_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_flow(tiny_config(**changes))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"variant": "Q/2"}, "unknown model variant 'Q/2'.*S, B, L, XL"),
        ({"depth": 3, "width": 16, "num_heads": 2}, "depth 3 is odd"),
    ],
)
def test_impossible_networks_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        make_latte_config(tiny_config(model=model))
