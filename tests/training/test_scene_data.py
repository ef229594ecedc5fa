"""Training with scenes: what is clean, what is dropped, what is learned, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx
from scene_worlds import scene_config, write_scene_videos
from tiny import quick_compilation, write_videos

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.config_files import differences
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import clip_batches, eval_clips
from maskflow_jax.flow.weighting import WEIGHTINGS
from maskflow_jax.parallel import sharding
from maskflow_jax.profiling.memory_plan import plan_train_step
from maskflow_jax.scenes.conditions import SceneClips
from maskflow_jax.training.building import make_flow, make_latte_config, model_builder
from maskflow_jax.training.loop import validate
from maskflow_jax.training.objective import Layout
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.released_weights import import_checkpoint
from maskflow_jax.training.scene_data import make_windows, with_conditions
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import (
    clip_loss,
    corrupt,
    draw_scenes,
    make_eval_step,
    make_train_step,
)

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, ema_decay=0.9)
SIZES = {"clip_frames": 6, "batch_size": 8}


class Training:
    """Everything that a run with scenes puts together, and its steps."""

    def __init__(self, directory, **changes):
        self.directory, self.mesh = directory, sharding.make_mesh()
        videos = read_token_dataset(directory, "train")
        config = scene_config(directory, model__patch_size=4, **changes)
        self.config = with_conditions(config, videos)
        self.validation = make_windows(self.config, read_token_dataset(directory, "test"))
        self.flow, optimizer = make_flow(self.config), make_optimizer(OPTIMIZER)
        with quick_compilation():
            self.graphdef, self.state = init_state(
                model_builder(self.config), optimizer, jax.random.key(0), self.mesh
            )
            self.step = make_train_step(self.graphdef, self.flow, optimizer, OPTIMIZER, self.state)
            self.eval_step = make_eval_step(self.graphdef, self.flow, self.mesh)
        windows = make_windows(self.config, videos)
        self.batches = clip_batches(videos, seed=0, windows=windows, **SIZES)

    def run(self, num_steps):
        for _ in range(num_steps):
            batch = sharding.place_batch(self.mesh, next(self.batches))
            self.state, metrics = self.step(self.state, jax.random.key(1), batch)
            assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
        self.batches.close()
        return self

    def cross_entropy(self, change=lambda scenes: scenes):
        clips = eval_clips(self.validation.videos, windows=self.validation, **SIZES)
        changed = [
            (SceneClips(batch.tokens, change(batch.scenes)), numbers) for batch, numbers in clips
        ]
        params = self.state["params"]
        return validate(self.eval_step, params, changed, self.mesh)["cross_entropy"]

    def model(self):
        return nnx.merge(self.graphdef, self.state["params"])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scene_videos(folder, train=40)
    return folder


@pytest.fixture(scope="module")
def trained(directory):
    return Training(directory).run(60)


def test_frames_are_predicted_from_the_caption_of_their_own_scene(trained, directory):
    """A frame shows the token that its caption names, so captions tell everything."""
    told = trained.cross_entropy()

    def swapped(scenes):
        captions, mask = (np.roll(a, 1, axis=1) for a in (scenes.captions, scenes.caption_mask))
        return scenes._replace(captions=captions, caption_mask=mask)

    def silent(scenes):
        return scenes._replace(caption_mask=np.zeros_like(scenes.caption_mask))

    assert told < 0.5
    assert trained.cross_entropy(silent) > told + 0.5  # other frames of the scene tell a little
    assert trained.cross_entropy(swapped) > told + 1.0
    everything = Training(directory, scenes__scope="all").run(60).cross_entropy()
    assert everything > told + 0.3  # which caption is whose is not known


def test_labels_are_learned_too(directory):
    training = Training(directory, scenes__condition="labels").run(60)
    other = training.cross_entropy(lambda s: s._replace(labels=np.roll(s.labels, 1, axis=1)))
    assert training.cross_entropy() < other - 1.0


def one_batch(training, *, context=1.0, dropped=0.0):
    """A corrupted batch of which all scenes but the last are clean in all clips."""
    flow = dataclasses.replace(training.flow, context_probability=context, drop_probability=dropped)
    batch, _ = next(eval_clips(training.validation.videos, windows=training.validation, **SIZES))
    times = jnp.full(batch.tokens.shape[:2], 0.2)
    times, scenes = draw_scenes(flow, jax.random.key(0), times, batch.scenes)
    return corrupt(flow, jax.random.key(1), SceneClips(batch.tokens, scenes), times)


def test_the_loss_falls_on_the_last_scene_only(trained):
    clips = one_batch(trained)
    context = clips.scenes.scene_id < 2
    assert np.all((clips.times == 1.0) == context)
    np.testing.assert_array_equal(clips.xt[context], clips.tokens[context])
    assert not np.any(np.asarray(clips.masked)[context])
    layout, weights = Layout(trained.mesh, 2), jnp.ones_like(clips.times)

    @quick_jit
    def loss(targets):
        shown = clips._replace(tokens=targets)
        return clip_loss(trained.model(), layout, shown, clips.masked, weights)[0]

    changed = jnp.where(context[:, :, None, None], 7 - clips.tokens, clips.tokens)
    assert loss(clips.tokens) == loss(changed) > 0
    last = jnp.where(context[:, :, None, None], clips.tokens, 7 - clips.tokens)
    assert loss(clips.tokens) != loss(last)

    def of_logits(added):
        model = trained.model()
        logits = model.logits(model.features(clips.xt, clips.times, scenes=clips.scenes)) + added
        log_p = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_p, clips.tokens[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * clips.masked)

    gradient = np.asarray(quick_jit(jax.grad(of_logits))(jnp.zeros((*clips.tokens.shape, 8))))
    np.testing.assert_array_equal(gradient[context], 0.0)
    assert np.abs(gradient[~context]).max() > 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_of_clean_frames_are_finite(trained, name):
    times = one_batch(trained).times
    assert np.all(np.isfinite(WEIGHTINGS[name](trained.flow.schedule, times)))


def test_conditions_are_dropped_all_scenes_together(trained):
    many = 2_000
    batch, _ = next(eval_clips(trained.validation.videos, windows=trained.validation, **SIZES))
    scenes = jax.tree.map(lambda a: np.repeat(a[:1], many, axis=0), batch.scenes)
    _, drawn = draw_scenes(trained.flow, jax.random.key(3), jnp.zeros((many, 6)), scenes)
    kept = np.asarray(drawn.caption_mask).any(axis=2)
    assert np.all(kept == kept[:, :1])
    assert abs(1 - kept[:, 0].mean() - 0.1) < 0.03  # standard error 0.007
    np.testing.assert_array_equal(drawn.scene_id, scenes.scene_id)


def test_the_encoder_of_a_run_is_recorded_and_may_not_change(trained, directory):
    record = trained.config.conditions
    assert (record.kind, record.length, len(record.names)) == ("words", 2, 9)
    labels = dataclasses.replace(
        trained.config, conditions=Training(directory, scenes__condition="labels").config.conditions
    )
    assert any(line.startswith("conditions.kind") for line in differences(trained.config, labels))
    moved = dataclasses.replace(
        trained.config,
        scenes=dataclasses.replace(trained.config.scenes, windows="unrelated", encoder="there"),
        conditions=dataclasses.replace(record, name="there"),
    )
    assert differences(trained.config, moved) == []


def test_memory_is_planned_with_captions(trained):
    with quick_compilation():
        plan = plan_train_step(trained.config, 8)
    assert plan.temporary_bytes > 0
    assert make_latte_config(trained.config).conditions.num_words == 9


def test_what_cannot_be_trained_is_refused(directory, tmp_path):
    write_videos(tmp_path / "plain")
    plain = read_token_dataset(tmp_path / "plain", "train")
    for condition in ("labels", "captions"):
        config = scene_config(tmp_path / "plain", scenes__condition=condition)
        with pytest.raises(ValueError, match="has no scenes; prepare it with captions"):
            with_conditions(config, plain)
    videos = read_token_dataset(directory, "train")
    with pytest.raises(FileNotFoundError, match="are not encoded"):
        with_conditions(scene_config(directory, scenes__encoder="t5"), videos)
    with pytest.raises(ValueError, match="nothing says what the labels or captions are"):
        make_latte_config(scene_config(directory))
    with pytest.raises(ValueError, match="released weights have no parameters"):
        import_checkpoint(tmp_path / "x.pt", scene_config(directory), tmp_path / "run")
    with pytest.raises(ValueError, match="unknown condition 'words'; choose from none, labels"):
        scene_config(directory, scenes__condition="words")
