"""Videos of scenes small enough for tests: every scene shows one token, which its caption names."""

import numpy as np
import tiny

from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.scenes.records import Scene

COLOURS = ("red", "green", "blue", "white", "black", "grey", "pink", "gold")


def scenes_of(colours, frames=4, first=0):
    """Scenes one after the other; `frames` is one length or a list of them."""
    lengths = np.broadcast_to(frames, len(colours))
    stops = first + np.cumsum(lengths)
    return [
        Scene(
            start=int(stop - length),
            stop=int(stop),
            label=COLOURS[colour],
            caption=f"{COLOURS[colour].title()} walls.",
        )
        for colour, length, stop in zip(colours, lengths, stops, strict=True)
    ]


def video(name, colours, frames=4):
    tokens = np.repeat(np.asarray(colours), frames)
    tokens = np.broadcast_to(tokens[:, None, None], (len(tokens), *tiny.TOKENIZER["grid"]))
    return name, tokens, 5.0, scenes_of(colours, frames)


def write_scene_videos(directory, *, frames=4, num_scenes=5, train=6, tokenizer=tiny.TOKENIZER):
    rng = np.random.default_rng(0)
    splits = {
        split: [
            video(f"{split} {i}", rng.permutation(8)[:num_scenes], frames) for i in range(count)
        ]
        for split, count in (("train", train), ("test", 3))
    }
    write_token_dataset(directory, splits, tokenizer=tokenizer, with_scenes=True)
    return read_token_dataset(directory, "train")


def scene_config(directory, **changes):
    settings = {
        "data__directory": str(directory),
        "data__clip_frames": 6,
        "data__batch_size": 4,
        "scenes__condition": "captions",
        "scenes__num_scenes": 3,
        "sampling__context_frames": 4,
    }
    return tiny.tiny_config(**settings | changes)
