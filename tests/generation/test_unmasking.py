"""Windows that are shown in their progress; the app's tests hold single windows to their videos."""

import numpy as np
import pytest
import tiny

import maskflow_jax as mf
from maskflow_jax.config_files import change_sampling
from maskflow_jax.generation import unmasking


def test_a_row_for_each_sampler_and_a_line_where_there_is_no_terminal(tiny_run, caplog):
    caplog.set_level("INFO", logger="absl")
    generator = mf.VideoGenerator.load(tiny_run)
    own = generator.model.config.sampling
    samplings = [(name, change_sampling(own, [f"sampler.name={name}"])) for name in ("mgm", "fm")]
    samplings = [(name, change_sampling(s, ["sampler.num_steps=2"])) for name, s in samplings]
    with tiny.quick_compilation():
        rows = unmasking.reveal_videos(generator, samplings)
    for (label, tokens, steps, count), (name, sampling) in zip(rows, samplings, strict=True):
        assert (label, count) == (name, 2)
        assert f"{name}: sampled a window in 2 steps" in caplog.text
        context = generator.read_context(frames=sampling.context_frames)[0]
        np.testing.assert_array_equal(tokens[: len(context)], context)
        assert set(np.unique(steps[len(context) :])) <= {0, 1}
    assert unmasking.animate(generator.tokenizer, rows, num_images=4).shape[0] == 5
    with pytest.raises(ValueError, match="rolling fills no window"):
        unmasking.reveal_videos(generator, [("x", change_sampling(own, ["sampler.name=rolling"]))])
