"""What a tokenizer is worth on video: sharpness, use of its codes, and how predictable tokens are.

PSNR says what is lost in pixels. For a model of tokens two more figures matter: the entropy of the
tokens without context (nats, an upper bound of what there is to learn), and how often a token is
the one that was at the same place in the frame before. A tokenizer whose tokens change although
the picture hardly does makes every model look bad.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.evaluation.reconstruction import code_statistics, frame_psnr
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_ROWS = {
    "videos": ("validation videos", "{:.0f}"),
    "frames": ("validation frames", "{:.0f}"),
    "psnr": ("PSNR, mean over frames", "{:.2f} dB"),
    "psnr_lowest_tenth": ("PSNR that nine of ten frames exceed", "{:.2f} dB"),
    "code_usage": ("codes used", "{:.1%}"),
    "unigram_entropy": ("entropy of a token without context", "{:.3f} nats"),
    "copy_accuracy": ("copying the previous frame's token is right", "{:.1%}"),
}


def tokenizer_figures(tokenizer: Tokenizer, videos: Iterable[np.ndarray]) -> dict[str, float]:
    """Measures a tokenizer on validation videos.

    Args:
        tokenizer: The tokenizer.
        videos: uint8 [F, S, S, 3] each, at least one of two frames or more.

    Returns:
        `videos`, `frames`, `psnr` and `psnr_lowest_tenth` in dB, `code_usage`, `unigram_entropy` in
        nats, `copy_accuracy`, and the other figures of `code_statistics`.

    Raises:
        ValueError: If no video has two frames.
    """
    counts = np.zeros(tokenizer.identity["codebook_size"], np.int64)
    psnr, copied = [], []
    number = 0
    for frames in videos:
        tokens = tokenizer.encode(frames)
        counts += np.bincount(tokens.reshape(-1), minlength=len(counts))
        psnr.append(frame_psnr(frames, tokenizer.decode(tokens)))
        copied.append((tokens[1:] == tokens[:-1]).reshape(-1))
        number += 1
    if not copied or not any(map(len, copied)):
        raise ValueError("no video has two frames: pass at least one that has")
    statistics = code_statistics(counts)
    every = np.concatenate(psnr)
    return {
        "videos": number,
        "frames": len(every),
        "psnr": float(every.mean()),
        "psnr_lowest_tenth": float(np.quantile(every, 0.1)),
        "unigram_entropy": float(np.log(statistics["perplexity"])),
        "copy_accuracy": float(np.concatenate(copied).mean()),
        **statistics,
    }


def write_card(
    directory: Path, *, figures: Mapping[str, float], settings: Mapping[str, Any], step: int
) -> None:
    """Writes `card.json` and `card.md` into a tokenizer's folder.

    Args:
        directory: The folder.
        figures: What `tokenizer_figures` returned.
        settings: Settings of its training, JSON values only.
        step: Steps that it was trained for.
    """
    card = {"figures": dict(figures), "steps": step, "settings": settings}
    (directory / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    rows = [f"| {text} | {form.format(figures[name])} |" for name, (text, form) in _ROWS.items()]
    lines = [
        f"# Tokenizer after {step} steps",
        "",
        "| on validation videos | |",
        "|---|---|",
        *rows,
        "",
        "Settings of its training:",
        "",
        "```json",
        json.dumps(settings, indent=2),
        "```",
    ]
    (directory / "card.md").write_text("\n".join(lines) + "\n")
