"""Figures of a tokenizer on video, against a tokenizer whose figures are known."""

import json
from typing import ClassVar

import numpy as np
import pytest

from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures, write_card


class Brightness:
    """The token is the mean brightness of a frame over 64; frames come back flat."""

    identity: ClassVar[dict] = {"codebook_size": 4}

    def encode(self, frames):
        return (frames[:, :1, :1, 0] // 64).astype(np.int32)

    def decode(self, tokens):
        flat = (64 * tokens + 32).astype(np.uint8)
        return np.broadcast_to(flat[..., None], (len(tokens), 2, 2, 3))


def video(*levels):
    return np.broadcast_to(
        np.array(levels, np.uint8)[:, None, None, None], (len(levels), 2, 2, 3)
    ).copy()


def test_figures_are_what_their_names_say():
    figures = tokenizer_figures(Brightness(), [video(32, 42, 96), video(96, 96)])
    assert figures["videos"] == 2
    assert figures["frames"] == 5
    assert figures["code_usage"] == 0.5
    assert figures["copy_accuracy"] == pytest.approx(2 / 3)  # the jump between videos is no copy
    assert figures["unigram_entropy"] == pytest.approx(-0.4 * np.log(0.4) - 0.6 * np.log(0.6))
    exact, off_by_ten = 100.0, 10 * np.log10(255**2 / 100)
    assert figures["psnr"] == pytest.approx((4 * exact + off_by_ten) / 5)


@pytest.mark.parametrize("videos", [[], [video(3)]])
def test_a_video_of_two_frames_is_needed(videos):
    with pytest.raises(ValueError, match="two frames"):
        tokenizer_figures(Brightness(), videos)


def test_card_is_written_for_people_and_for_programs(tmp_path):
    figures = tokenizer_figures(Brightness(), [video(32, 42, 96)])
    write_card(tmp_path, figures=figures, settings={"seed": 3}, step=7)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card == {"figures": figures, "steps": 7, "settings": {"seed": 3}}
    text = (tmp_path / "card.md").read_text()
    assert "| copying the previous frame's token is right | 50.0% |" in text
    assert "after 7 steps" in text
