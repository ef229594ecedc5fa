"""The model that ships: size, validation figure on mazes of its own, legal motion in rollouts."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.evaluation.motion_reader import MotionReader
from maskflow_jax.generation.sample_folder import default_folder
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import make_flow
from maskflow_jax.training.loop import validate
from maskflow_jax.training.model_files import PRETRAINED
from maskflow_jax.training.steps import make_eval_step

WINDOW = 16
pytestmark = pytest.mark.usefixtures("full_optimisation")


@pytest.fixture(scope="module")
def generator():
    return VideoGenerator.load("maze")


@pytest.fixture(scope="module")
def mazes(generator):
    """Tokens of validation mazes under a seed that nothing was trained or chosen on."""
    pytest.importorskip("vizdoom")
    settings = MazeSettings(num_videos=12, num_frames=4 * WINDOW, seed=31, split="test")
    return np.stack([generator.tokenizer.encode(v.frames) for v in maze_videos(settings)])


def test_folder_is_small_and_says_what_it_holds():
    folder = PRETRAINED / "maze"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "contexts.npz", "card.md"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16e6
    directory = json.loads((folder / "config.json").read_text())["data"]["directory"]
    assert not Path(directory).is_absolute()


def test_it_is_known_by_its_name_and_nothing_is_written_into_the_package(generator, tmp_path):
    assert repr(generator).startswith("VideoGenerator('maze', step ")
    assert default_folder(generator.model) == Path("samples/maze")
    other = dataclasses.replace(generator.model, directory=tmp_path)
    assert other.name == str(tmp_path)
    assert default_folder(other) == tmp_path / "samples"


def test_validation_figure_holds_on_other_mazes(generator, mazes):
    model, mesh = generator.model, sharding.make_mesh()
    clips = mazes.reshape(-1, 4, WINDOW, 8, 8)  # batches of 4 clips
    batches = [(batch, 4 * i + np.arange(4)) for i, batch in enumerate(clips)]
    eval_step = make_eval_step(model.graphdef, make_flow(model.config), mesh)
    params = jax.tree.map(jax.numpy.asarray, model.params)
    figures = validate(eval_step, params, batches, mesh)
    assert figures["cross_entropy"] < 0.16
    assert figures["accuracy"] > 0.94


def test_rollouts_move_as_the_camera_may(generator, mazes):
    videos = generator.generate(mazes[:2, :12], length=48, context_frames=12, stride=4)
    assert not np.any(videos.tokens == 512)
    read = MotionReader.load().read(videos.frames)
    assert read.legal[:, 12:].mean() > 0.7
