"""Embeds the captions of a dataset with a text encoder of Hugging Face that lies on disk.

    python -m launch.encode_captions --dataset=data/scenes_videos --encoder=encoders/t5

writes `captions.safetensors` into the dataset's folder. T5, CLIP and other text encoders do; they
need the extra `text` (`pip install ".[text]"`), and nothing is downloaded. Training with
`--config.scenes.encoder=encoders/t5` reads the file and needs neither transformers nor torch.
"""

from absl import flags, logging

from launch import cli
from launch.startup import start

_DATASET = flags.DEFINE_string("dataset", None, "Dataset with captions.", required=True)
_ENCODER = flags.DEFINE_string("encoder", None, "Folder of the text encoder.", required=True)
_LENGTH = flags.DEFINE_integer("length", 64, "Tokens that a caption may have.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Captions encoded at a time.", lower_bound=1)


def main(_) -> None:
    """Encodes and writes."""
    start()
    from maskflow_jax.data.dataset import dataset_captions
    from maskflow_jax.scenes.embeddings import write_embeddings
    from maskflow_jax.scenes.hugging_face import HuggingFaceEncoder

    captions = dataset_captions(_DATASET.value)
    encoder = HuggingFaceEncoder(_ENCODER.value, length=_LENGTH.value)
    path = write_embeddings(_DATASET.value, captions, encoder, batch_size=_BATCH.value)
    logging.info("wrote %s: %d captions by %s", path, len(captions), encoder.record)


if __name__ == "__main__":
    cli.run(main)
