"""Text encoders from a folder, tiny and never trained."""

import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from maskflow_jax.scenes.embeddings import CaptionEmbeddings, write_embeddings  # noqa: E402
from maskflow_jax.scenes.encoders import check_encoder  # noqa: E402
from maskflow_jax.scenes.hugging_face import HuggingFaceEncoder  # noqa: E402

WORDS = ["<pad>", "</s>", "<unk>", "a", "walk", "red", "walls"]


def save_tokenizer(folder):
    """A tokenizer of whole words that ends every caption with an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_t5(folder, width=8):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_clip(folder):
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=1,
    )
    transformers.CLIPTextModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("save", [save_t5, save_clip])
def test_captions_are_embedded_and_come_back_from_the_file(save, tmp_path):
    encoder = HuggingFaceEncoder(save(tmp_path / "encoder"), length=5)
    record = encoder.record
    assert (record.kind, record.name, record.width, record.length) == (
        "embeddings",
        "encoder",
        8,
        5,
    )
    captions = ["a red walk", "walls"]
    encoded = encoder.encode(captions)
    assert encoded.captions.shape == (2, 5, 8)
    np.testing.assert_array_equal(encoded.caption_mask, [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    assert np.all(np.abs(encoded.captions[encoded.caption_mask]).max(axis=1) > 0)
    np.testing.assert_array_equal(encoded.captions[~encoded.caption_mask], 0.0)
    # What stands beside a caption in a batch does not matter.
    np.testing.assert_allclose(
        encoder.encode(captions[1:]).captions[0], encoded.captions[1], atol=2e-3
    )
    write_embeddings(tmp_path, captions, encoder)
    stored = CaptionEmbeddings(tmp_path).encode(captions)
    np.testing.assert_allclose(stored.captions, encoded.captions, atol=2e-3)
    np.testing.assert_array_equal(stored.caption_mask, encoded.caption_mask)


def test_encoders_are_told_apart(tmp_path):
    one, other = (
        HuggingFaceEncoder(save_t5(tmp_path / str(width), width), length=5) for width in (8, 12)
    )
    with pytest.raises(ValueError, match="sha256, width differ"):
        check_encoder(other.record, one.record, other_name="trained model")
    moved = HuggingFaceEncoder((tmp_path / "8").rename(tmp_path / "moved"), length=5)
    check_encoder(moved.record, one.record, other_name="trained model")


def test_captions_and_folders_that_cannot_be_used(tmp_path):
    encoder = HuggingFaceEncoder(save_t5(tmp_path / "t5"), length=3)
    with pytest.raises(ValueError, match="has 4 tokens, the network takes 3; shorten"):
        encoder.encode(["a red walk"])
    with pytest.raises(ValueError, match="is empty"):
        encoder.encode([" "])
    with pytest.raises(FileNotFoundError, match="no text encoder at"):
        HuggingFaceEncoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least one token"):
        HuggingFaceEncoder(tmp_path / "t5", length=0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="cannot be read"):
        HuggingFaceEncoder(tmp_path / "broken")


def test_the_program_embeds_the_captions_of_a_dataset_for_training(tmp_path):
    from absl import flags
    from scene_worlds import scene_config, write_scene_videos

    from launch import encode_captions
    from maskflow_jax.training.building import make_latte_config
    from maskflow_jax.training.scene_data import make_windows, with_conditions

    videos = write_scene_videos(tmp_path / "data", train=2)
    folder = save_t5(tmp_path / "t5")
    arguments = [f"--dataset={tmp_path}/data", f"--encoder={folder}", "--length=6"]
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["encode_captions", *arguments])
    try:
        encode_captions.main(None)
    finally:
        for name in flags.FLAGS.flags_by_module_dict()["launch.encode_captions"]:
            name.unparse()
    config = with_conditions(scene_config(tmp_path / "data", scenes__encoder="t5"), videos)
    assert config.conditions == HuggingFaceEncoder(folder, length=6).record
    assert make_latte_config(config).conditions.text_width == 8
    windows = make_windows(config, videos)
    clip = windows.clip(windows.in_order()[0])
    assert clip.scenes.captions.shape == (3, 6, 8) and clip.scenes.caption_mask.any()
