"""The tokenizers that ship with the package keep their figures."""

import json

import numpy as np
import pytest

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures
from maskflow_jax.tokenizers.tokenizer import PRETRAINED, Tokenizer


def test_shipped_tokenizer_keeps_its_bar():
    folder = PRETRAINED / "maze"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4e6
    tokenizer = Tokenizer.load("maze")
    assert tokenizer.identity["grid"] == [8, 8]
    assert tokenizer.identity["codebook_size"] == 512
    # Validation mazes under a seed that neither its training nor its evaluation used.
    settings = MazeSettings(num_videos=24, num_frames=40, seed=7, split="test")
    figures = tokenizer_figures(tokenizer, (video.frames for video in maze_videos(settings)))
    card = json.loads((folder / "card.json").read_text())["figures"]
    assert figures["psnr"] > 33
    assert figures["psnr"] == pytest.approx(card["psnr"], abs=1)
    assert figures["code_usage"] >= 0.95
    assert figures["copy_accuracy"] > 0.45
    assert figures["unigram_entropy"] < 5


def test_older_tokenizer_is_still_there():
    older = Tokenizer.load("my_way_home")
    assert older.identity["codebook_size"] == 1024
    settings = MazeSettings(
        num_videos=1, num_frames=8, seed=7, split="test", textures="my_way_home"
    )
    (video,) = maze_videos(settings)
    error = np.mean((older.decode(older.encode(video.frames)).astype(float) - video.frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 25
