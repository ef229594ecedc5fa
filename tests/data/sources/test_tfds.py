"""Videos of TFDS datasets, and damaged ones."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from source_reading import by_id, read
from videos import moving

from maskflow_jax.data.preparation.decoding import decode_item
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.sources.registry import make_source


class Films(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path, url_infos = Path(__file__).parent, None  # TFDS cannot find them for a test

    def _info(self):
        features = {
            "clip": tfds.features.Tensor(shape=(None, 9, 7, 3), dtype=np.uint8),
            "label": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._films(4), "validation": self._films(2)}

    def _films(self, count):
        for index in range(count):
            yield index, {"clip": moving(5 + index, 9, 7), "label": "x"}

    _generate_examples = _films


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_tfds_videos(tmp_path, file_format):
    if file_format == "tfrecord":
        pytest.importorskip("tensorflow")
    Films(data_dir=tmp_path, file_format=file_format).download_and_prepare()
    settings = {"dataset": "films", "fps": 4.0, "root": tmp_path}
    source = make_source("tfds", settings)
    items = by_id(source)
    assert sorted(items) == [
        *(f"train/{i:08d}" for i in range(4)), *(f"validation/{i:08d}" for i in range(2))
    ]  # fmt: skip
    assert {item.split for item in items.values()} == {"train", "test"}
    lengths = []
    for item in items.values():
        frames, _ = read(source, item)
        np.testing.assert_array_equal(frames, moving(len(frames), 9, 7))
        lengths.append(len(frames))
    assert sorted(lengths) == [5, 5, 6, 6, 7, 8]
    outcomes = [
        list(decode_item(source, items[name], FrameTransform(size=8), 8))[-1]
        for name in ("train/00000000", "train/00000000", "train/00000001")
    ]
    digests = [outcome.facts["sha256"] for outcome in outcomes]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(ValueError, match=r"features clip, label.*set key"):
        make_source("tfds", settings | {"key": "label"}).listing()
    with pytest.raises(FileNotFoundError, match="no dataset 'nowhere'"):
        make_source("tfds", settings | {"dataset": "nowhere"}).listing()


def test_a_damaged_tfrecord_is_named(tmp_path):
    pytest.importorskip("tensorflow")
    Films(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    (shard,) = tmp_path.rglob("films-train*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(data)
    source = make_source("tfds", {"dataset": "films", "fps": 4.0, "root": tmp_path})
    outcomes = [
        list(decode_item(source, item, FrameTransform(size=8), 8))[-1]
        for item in source.listing().items
    ]
    failures = {outcome.failure for outcome in outcomes if outcome.failure}
    assert failures and all("cannot be read" in failure for failure in failures)
    assert any(outcome.failure is None for outcome in outcomes)
