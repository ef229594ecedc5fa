"""Videos of scenes small enough for tests: every scene shows one token, which its caption names."""

import dataclasses

import jax
import numpy as np
import tiny

import maskflow_jax as mf
from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.generation.previews import previews
from maskflow_jax.scenes.records import Scene
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGAN
from maskflow_jax.training.trainer import train

# What differs from the tiny config in a run on scenes.
SCENES = {
    "data.clip_frames": 6,
    "scenes.condition": "captions",
    "scenes.num_scenes": 3,
    "sampling.context_frames": 4,
    "model.isolated_context": True,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 1,
    "run.num_steps": 4,
}

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


def write_scene_world(folder):
    """A tokenizer that was never trained, and videos of scenes that say they are its."""
    params = tiny.random_params(lambda: VQGAN(tiny.AUTOENCODER, tiny.nnx.Rngs(0)), scale=0.3)
    save_tokenizer(folder / "tokenizer", tiny.AUTOENCODER, params)
    write_scene_videos(folder / "data", tokenizer=Tokenizer.load(folder / "tokenizer").identity)
    return folder


def train_on_scenes(world):
    """A generator whose network looks at captions."""
    settings = tiny.settings_of(world, **SCENES)
    with tiny.quick_compilation():
        assert train(settings, world / "run", [previews])
    assert (world / "run" / "previews" / "00000004.mp4").is_file()
    found = mf.VideoGenerator.load(world / "run")
    # Few steps leave a network that hardly looks at captions: these weights do.
    params = jax.tree.map(
        lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape).astype(x.dtype),
        found.model.params,
    )
    found.model = dataclasses.replace(found.model, params=params)
    return found


def said(scenes, generator, row=0):
    """The words that a window's frames are told, frame by frame."""
    words = generator.encoder.record.names
    texts = [
        " ".join(words[w] for w in caption[mask])
        for caption, mask in zip(scenes.captions[row], scenes.caption_mask[row], strict=True)
    ]
    return [texts[scene] for scene in scenes.scene_id[row]]


def doubled(captions):
    return [caption for caption in captions for _ in range(2)]
