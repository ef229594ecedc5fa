"""Published autoencoders: from a checkpoint to a tokenizer, and the errors for misfits."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx
from ldm import ldm_config
from safetensors.numpy import load_file, save_file

from maskflow_jax.tokenizers import vqgan_configs
from maskflow_jax.tokenizers.importing import import_tokenizer
from maskflow_jax.tokenizers.tokenizer import Tokenizer, unflatten_parameters
from maskflow_jax.tokenizers.vqgan import VQGANConfig, abstract_vqgan, parameter_count
from maskflow_jax.tokenizers.vqgan_torch import autoencoder_weights, from_torch

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"
CHECKPOINT = REFERENCE / "vq_f8_tiny.safetensors"
# Presets at their published sizes; latent diffusion's logs have 55.3 M for its vq-f4.
PARAMETERS = {
    "ldm-vq-f4": 55_322_782,
    "ldm-vq-f8": 67_717_295,
    "taming-f16-16384": 76_073_859,
}


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE / "vq_f8_tiny.npz")


@pytest.fixture(scope="module")
def weights():
    return load_file(CHECKPOINT)


def shapes_of(config: VQGANConfig) -> dict[str, np.ndarray]:
    """A checkpoint of a config's shapes that takes no memory."""
    weights = {}
    for path, leaf in nnx.traversals.flatten_mapping(abstract_vqgan(config)[1]).items():
        shape = leaf.shape
        *module, last = map(str, path)
        last = {"kernel": "weight", "scale": "weight"}.get(last, last)
        name = ".".join([*module, last]) if module else "quantize.embedding.weight"
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        weights[name] = np.broadcast_to(np.float32(0), shape)
    return weights


def run(*arguments):
    """Calls the program."""
    checkpoint, out, *flags = map(str, arguments)
    command = [sys.executable, "-m", "launch.import_weights", f"--checkpoint={checkpoint}"]
    command += [f"--out={out}", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def check_parity(folder, reference):
    """Tokens are the reference's; latents and images are within 1e-4."""
    config = Tokenizer.load(folder).config
    params = unflatten_parameters(
        load_file(folder / "model.safetensors"), config, source=str(folder)
    )
    model = nnx.merge(abstract_vqgan(config)[0], params)
    images = reference["images"].transpose(0, 2, 3, 1)
    latents = jax.jit(lambda images: model.encode(images))(images)
    errors = [np.abs(latents - reference["prequant"].transpose(0, 2, 3, 1)).max()]
    np.testing.assert_array_equal(model.nearest_code(latents), reference["tokens"])
    decoded = jax.jit(lambda tokens: model.decode(jnp.take(model.codebook[...], tokens, axis=0)))(
        reference["tokens"]
    )
    errors.append(np.abs(decoded - reference["decoded"].transpose(0, 2, 3, 1)).max())
    print("largest errors of latents and images:", errors)
    assert max(errors) < 1e-4


def test_the_reference_through_the_program(tmp_path, reference):
    done = run(CHECKPOINT, tmp_path / "tiny", "--frame_size=64")
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(tmp_path / "tiny")
    assert tokenizer.config == ldm_config(reference)
    assert tokenizer.identity["name"] == "tiny"
    assert f"64 pixels to 8x8 tokens, sha256 {tokenizer.identity['sha256']}" in done.stderr
    check_parity(tmp_path / "tiny", reference)
    with pytest.raises(FileExistsError, match="tiny holds a tokenizer already"):
        import_tokenizer(CHECKPOINT, tmp_path / "tiny", frame_size=64)


def test_a_lightning_checkpoint_through_the_program(tmp_path, weights):
    torch = pytest.importorskip("torch")
    state_dict = {name: torch.from_numpy(array) for name, array in weights.items()}
    state_dict["loss.discriminator.main.0.weight"] = torch.zeros(3)
    contents = {"state_dict": state_dict, "epoch": 3, "optimizer_states": [{"state": {}}]}
    torch.save(contents, tmp_path / "vq.ckpt")
    done = run(tmp_path / "vq.ckpt", tmp_path / "a" / "tiny", "--frame_size=64")
    assert done.returncode == 0, done.stderr
    assert "ignored 1 arrays: loss and discriminator" in done.stderr
    # The same files as from safetensors, whose parity with the reference is tested above.
    identity = import_tokenizer(CHECKPOINT, tmp_path / "b" / "tiny", frame_size=64)
    assert Tokenizer.load(tmp_path / "a" / "tiny").identity == identity


class Callback:
    """An object of a training library."""


def test_a_checkpoint_with_other_objects_says_what_to_do(tmp_path, weights):
    torch = pytest.importorskip("torch")
    state_dict = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save({"state_dict": state_dict, "callbacks": {Callback: 1}}, tmp_path / "vq.ckpt")
    with pytest.raises(ValueError, match="was not loaded") as error:
        import_tokenizer(tmp_path / "vq.ckpt", tmp_path / "out", frame_size=64)
    command = str(error.value).splitlines()[-1].strip()
    # The command that the error gives works as it stands.
    program = command.removeprefix('python -c "').removesuffix('"')
    program = program.replace("'vq_weights.pt'", repr(str(tmp_path / "vq_weights.pt")))
    exec(program, {})
    import_tokenizer(tmp_path / "vq_weights.pt", tmp_path / "out", frame_size=64)


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_are_recognised_by_their_weights(name):
    preset = vqgan_configs.PRESETS[name]
    assert parameter_count(preset) == PARAMETERS[name]
    weights = shapes_of(preset)
    assert vqgan_configs.config_from_weights(weights, None) == preset
    smaller = vqgan_configs.config_from_weights(weights, 128)
    assert smaller == vqgan_configs.at_frame_size(preset, 128)
    assert vqgan_configs.preset_of(smaller) == name
    half = tuple(side // 2 for side in preset.attention_resolutions)
    assert smaller.attention_resolutions == half


@pytest.mark.parametrize("name", vqgan_configs.PRESETS)
def test_presets_keep_their_name_at_other_sizes(name):
    preset = vqgan_configs.PRESETS[name]
    for frame_size in (64, 128, 512):
        assert vqgan_configs.preset_of(vqgan_configs.at_frame_size(preset, frame_size)) == name
    settings = ldm_settings(preset)
    assert vqgan_configs.config_from_settings(settings, source="config.yaml") == preset


def test_weights_that_do_not_tell_their_size(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)of no preset.*frame_size, a multiple of 8"):
        import_tokenizer(CHECKPOINT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def ldm_settings(config: VQGANConfig, **changes) -> dict:
    """A config as LDM writes it."""
    network = {
        "double_z": False,
        "z_channels": config.z_channels,
        "resolution": config.frame_size,
        "in_channels": 3,
        "out_ch": 3,
        "ch": config.base_width,
        "ch_mult": list(config.width_multipliers),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": list(config.attention_resolutions),
        "dropout": 0.0,
    }
    params = {"n_embed": config.codebook_size, "embed_dim": config.embed_dim}
    return {"model": {"target": "VQModel", "params": params | {"ddconfig": network | changes}}}


def test_config_files_of_all_kinds(tmp_path, reference):
    config = ldm_config(reference)
    (tmp_path / "ldm.yaml").write_text(yaml.safe_dump(ldm_settings(config)))
    (tmp_path / "ldm.json").write_text(str(reference["config"]))
    (tmp_path / "ours.json").write_text(json.dumps(dataclasses.asdict(config)))
    second_stage = {"model": {"params": {"first_stage_config": ldm_settings(config)["model"]}}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second_stage))
    identities = []
    for name in ("ldm.yaml", "ldm.json", "ours.json", "second.yaml"):
        out = tmp_path / name.replace(".", "_") / "tiny"
        identities.append(import_tokenizer(CHECKPOINT, out, config_file=tmp_path / name))
    assert identities == identities[:1] * 4


def test_config_files_that_do_not_fit(tmp_path, reference):
    config = ldm_config(reference)
    bad = ldm_settings(config, double_z=True, ch=None, attn_type="linear")
    with pytest.raises(ValueError, match="describes no VQModel") as error:
        vqgan_configs.config_from_settings(bad, source="c.yaml")
    for problem in ("missing ddconfig.ch", "double_z is True", "attn_type is 'linear'"):
        assert problem in str(error.value)
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.json").write_text("{")
    for name, message in (
        ("list.yaml", "holds no settings but a list"),
        ("broken.json", "no YAML or JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            import_tokenizer(CHECKPOINT, tmp_path / "out", config_file=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no config file"):
        import_tokenizer(CHECKPOINT, tmp_path / "out", config_file=tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="give one of them"):
        import_tokenizer(
            CHECKPOINT, tmp_path / "out", preset="ldm-vq-f8", config_file=tmp_path / "list.yaml"
        )


def test_weights_of_another_model_say_what_they_seem_to_be(tmp_path):
    with pytest.raises(ValueError, match="does not fit") as error:
        import_tokenizer(CHECKPOINT, tmp_path / "out", preset="ldm-vq-f8")
    message = str(error.value)
    assert "quantize.embedding.weight has shape (128, 4), the config asks for (16384, 4)" in message
    assert "missing encoder.down.0.block.1.conv1.weight" in message
    assert "the weights look like VQGANConfig(frame_size=256, base_width=32" in message
    assert not (tmp_path / "out").exists()


def test_what_a_training_checkpoint_holds_beside_is_counted(weights):
    beside = ["loss.discriminator.main.0.weight", "loss.perceptual_loss.x", "model_ema.decay"]
    extra = dict.fromkeys([*beside, "quantize.used"], np.zeros(3, np.float32))
    picked, ignored = autoencoder_weights(weights | extra)
    assert picked.keys() == weights.keys()
    assert sorted(ignored.values()) == [1, 1, 2]


def test_the_tokenizer_inside_a_second_stage(weights, reference):
    inner = {f"first_stage_model.{name}": array for name, array in weights.items()}
    inner["first_stage_model.loss.x"] = inner["model.diffusion_model.y"] = np.zeros(1)
    picked, ignored = autoencoder_weights(inner)
    assert picked.keys() == weights.keys()
    assert ignored == {"second stage": 1, "loss and discriminator": 1}
    params = from_torch(inner, ldm_config(reference))
    np.testing.assert_array_equal(params["codebook"], weights["quantize.embedding.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quantize.embed.weight", "Gumbel"),
        ("encoder.down_blocks.0.x", "diffusers"),
        ("encoder.conv_in.weight", "no codebook"),
    ],
)
def test_other_models_are_recognised(tmp_path, name, message):
    save_file({name: np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"{message}.*export_tokenizer"):
        import_tokenizer(tmp_path / "w.safetensors", tmp_path / "out")
    save_file({"encoder.x": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"(?s)it lacks:\s+encoder\.conv_in\.weight"):
        import_tokenizer(tmp_path / "w.safetensors", tmp_path / "out")


def test_an_autoencoder_without_attention(weights, reference):
    config = dataclasses.replace(
        ldm_config(reference), attention_resolutions=(), middle_attention=False
    )
    bare = {name: array for name, array in weights.items() if ".attn" not in name}
    assert vqgan_configs.config_from_weights(bare, 64) == config
    settings = ldm_settings(ldm_config(reference), attn_type="none")
    assert vqgan_configs.config_from_settings(settings, source="c") == config
    params = from_torch(bare, config)
    model = nnx.merge(abstract_vqgan(config)[0], params)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    assert jax.eval_shape(lambda x: model.encode(x), images).shape == (1, 8, 8, 4)
