"""Which videos are for training and which for testing.

The source's own split counts where it has one. Otherwise the SHA-256 of a video's content decides,
read as a number from 0 to 1: below `test_fraction` the video is for testing. So a video keeps its
split when others are added or removed, and copies of one video are never divided.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging


def choose_splits(records: Iterable[Mapping[str, Any]], test_fraction: float) -> dict[str, str]:
    """Assigns each content to a split.

    A single video is for training. Where all digests of a few videos are above the fraction, the
    video with the smallest becomes the test split, with a warning: its split may change when videos
    are added.

    Args:
        records: Records of the written items, with `id`, `sha256` and `split` (None where the
            source does not say).
        test_fraction: Share of the contents to test on; 0 makes no test split.

    Returns:
        SHA-256 of the content to "train" or "test". A content that the source puts into both splits
        is for testing.

    Raises:
        ValueError: for a fraction outside 0 to 1, or if nothing is left to train on.
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction is {test_fraction}: choose a share from 0 to 1")
    splits, undecided = {}, set()
    for record in records:
        content, split = record["sha256"], record["split"]
        if split is None:
            undecided.add(content)
        elif splits.setdefault(content, split) != split:
            logging.warning("the content of %s is in both splits: used for testing", record["id"])
            splits[content] = "test"
    by_digest = sorted(undecided - splits.keys())
    if len(by_digest) == 1 and not splits and test_fraction < 1:
        logging.warning("there is one video only: it is for training, with no test split")
        return {by_digest[0]: "train"}
    splits |= {c: "test" if as_number(c) < test_fraction else "train" for c in by_digest}
    if test_fraction and by_digest and "test" not in splits.values():
        smallest = as_number(by_digest[0])
        splits[by_digest[0]] = "test"
        logging.warning(
            "no video's digest is below test_fraction %g; the one with the smallest is used for "
            "testing all the same. test_fraction=%.3f makes this choice permanent, also when "
            "videos are added",
            test_fraction,
            smallest + 0.001,
        )
    if test_fraction < 1 and splits and "train" not in splits.values():
        raise ValueError(
            f"all of the {len(splits)} videos would be for testing, with none left to train on: "
            "add videos, or set test_fraction to 0"
        )
    return splits


def as_number(digest: str) -> float:
    """The first 64 bits of a hexadecimal digest as a number in [0, 1)."""
    return int(digest[:16], 16) / 2**64
