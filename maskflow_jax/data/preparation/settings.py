"""Settings of the preparation of a dataset."""

import dataclasses

_EXCLUSIVE = (("shard", "merge"), ("shard", "beam"), ("merge", "beam"), ("batch_size", "memory_gb"))
_EXCLUSIVE += (("captions", "segment_frames"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Settings of the dataset and of the work.

    Attributes:
        test_fraction: Share of the videos to test on where the source does not say which; 0 makes
            no test split.
        segment_frames: Length of the records that longer videos are cut into.
        overwrite: Whether to replace an existing dataset, once the new one is complete.
        keep_work: Whether to keep the work directory after success.
        max_failed: Share of failed videos above which the work directory is kept in any case.
        batch_size: Number of frames encoded at a time; by default up to 64, as memory allows.
        memory_gb: Memory of each device to choose the batch size by, in 1e9 bytes.
        dtype: Type that the tokenizer computes in, "float32" or "bfloat16".
        workers: Number of processes that decode; 0 decodes in a thread.
        shard: "i/n" to do part i of n of the videos, counted from 0, and make no dataset.
        merge: Whether to make the dataset of finished shards.
        captions: Path of a file with the scenes of all videos and what is said of them
            (`preparation.captions`).
        beam: Options of a Beam pipeline that does the work, as Beam takes them.
    """

    test_fraction: float = 0.05
    segment_frames: int | None = None
    overwrite: bool = False
    keep_work: bool = False
    max_failed: float = 0.0
    batch_size: int | None = None
    memory_gb: float | None = None
    dtype: str = "float32"
    workers: int = 0
    shard: str | None = None
    merge: bool = False
    beam: tuple[str, ...] | None = None
    captions: str | None = None

    def __post_init__(self):
        """Raises ValueError for settings that exclude each other, or values out of range."""
        for one, other in _EXCLUSIVE:
            if getattr(self, one) and getattr(self, other):
                raise ValueError(f"{one} and {other} exclude each other: set one of them")
        for name in ("test_fraction", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a share from 0 to 1")
        for name, least in (("segment_frames", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: choose {least} or more")
        if self.shard is not None:
            parse_shard(self.shard)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads "i/n".

    Raises:
        ValueError: if the text is not of this form, or i is not one of 0 to n - 1.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"shard is {text!r}: give it as i/n with i from 0 to n - 1, such as 0/4")
    return int(index), int(count)
