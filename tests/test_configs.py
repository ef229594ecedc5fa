"""Every experiment says what the paper says, and trains a step on tokens of its own grid."""

import functools
import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from tiny import TOKENIZER, quick_compilation, random_params

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.config_files import read_config
from maskflow_jax.data.dataset import write_token_dataset
from maskflow_jax.data.preparation.prepare import prepare_dataset
from maskflow_jax.generation import scene_measures
from maskflow_jax.generation.previews import previews
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.sampling.samplers import FM, MGM
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig
from maskflow_jax.training.building import make_flow, make_latte_config
from maskflow_jax.training.trainer import train, with_tokenizer

pytestmark = pytest.mark.usefixtures("compilation_cache")

PAPER = ["", "smoke", "constant", "smoke,time_independent", "constant,time_independent"]
SHAPES = {  # pixels, tokens along a side
    "dmlab": (256, 32),
    "faceforensics": (256, 32),
    "maze": (64, 8),
    "maze_small": (64, 8),
}
SD_VQ_F8 = {**TOKENIZER, "codebook_size": 16384, "grid": [32, 32], "frame_size": 256}


def get_config(name, arguments=""):
    return importlib.import_module(f"configs.{name}").get_config(arguments)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(pixels, tokens along a side) -> folder of an untrained tokenizer with few codes."""
    folder = tmp_path_factory.mktemp("tokenizers")

    @functools.cache
    def make(frame_size, grid_size):
        config = VQGANConfig(
            frame_size=frame_size,
            base_width=2,
            width_multipliers=(1,) * (frame_size // grid_size).bit_length(),
            num_res_blocks=0,
            attention_resolutions=(),
            z_channels=2,
            embed_dim=2,
            codebook_size=16,
            norm_groups=1,
        )
        params = random_params(lambda: VQGAN(config, nnx.Rngs(0)))
        save_tokenizer(folder / str(frame_size), config, params)
        return folder / str(frame_size)

    return make


@pytest.mark.parametrize("name", SHAPES)
def test_a_smoke_step_of_every_config(name, tokenizers, tmp_path, monkeypatch):
    monkeypatch.setitem(Tokenizer.__init__.__kwdefaults__, "batch_size", 8)
    settings = get_config(name, "smoke").to_dict()
    settings["run"] |= {"num_steps": 1}
    with quick_compilation():
        tokenizer = tokenizers(*SHAPES[name])
        settings["data"] |= {"directory": f"{tmp_path}/data", "tokenizer": str(tokenizer)}
        identity = Tokenizer.load(tokenizer).identity
        assert identity["grid"] == [SHAPES[name][1]] * 2
        rng, source = np.random.default_rng(0), settings["data"]["source"]
        videos = {
            split: [(split, rng.integers(0, 16, (9, *identity["grid"])), source["fps"])]
            for split in ("train", "test")
        }
        write_token_dataset(tmp_path / "data", videos, tokenizer=identity, source=source)
        assert train(settings, tmp_path / "run", [previews])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    held_out = [json.loads(line).get("validation/cross_entropy") for line in lines]
    assert held_out[-1] == pytest.approx(np.log(16), rel=0.1)
    assert (tmp_path / "run" / "previews" / "00000001.mp4").is_file()


@pytest.mark.parametrize(
    ("name", "size", "window", "batch", "steps"),
    [
        ("faceforensics", (28, 1152, 16, 2), (16, 2), 16, 200_000),
        ("dmlab", (12, 768, 12, 2), (36, 12), 12, 400_000),
    ],
)
def test_published_recipes(name, size, window, batch, steps):
    config = with_tokenizer(read_config(get_config(name)), SD_VQ_F8)
    model = make_latte_config(config)
    assert (model.depth, model.width, model.num_heads, model.patch_size) == size
    assert model.dtype == "bfloat16" and model.time_conditioning and model.remat != "none"
    assert (config.data.clip_frames, config.sampling.context_frames) == window
    assert config.data.batch_size == batch
    assert config.run.num_steps == steps
    # The optimizer's defaults are the paper's.
    assert config.optimizer == OptimizerConfig()
    flow = config.flow
    assert (flow.schedule, flow.frame_times, flow.mask_ce) == ("sigmoid", "frame", True)
    assert (flow.sigmoid.start, flow.sigmoid.end, flow.sigmoid.tau) == (-3.0, 3.0, 1.0)
    snr = flow.snr
    assert (flow.weighting, snr.fused, snr.decay, snr.clip) == ("snr", True, 0.8, 6.0)
    make_flow(config)
    # Algorithm 4 passes time 0 for new frames; FM passes their times.
    assert config.sampling.sampler == MGM(num_steps=20, counts="arccos", independent_time=0.0)
    assert FM().independent_time is None


@pytest.mark.parametrize("name", SHAPES)
def test_baselines_change_one_setting_each(name):
    plain = get_config(name).to_dict()
    constant, independent = get_config(name, "constant"), get_config(name, "time_independent")
    assert constant.flow.frame_times == "constant"
    assert independent.model.time_conditioning is False
    with constant.unlocked(), independent.unlocked():
        constant.flow.frame_times, independent.model.time_conditioning = "frame", True
    assert constant.to_dict() == plain
    assert independent.to_dict() == plain


@pytest.mark.parametrize("name", SHAPES)
def test_isolated_comes_with_the_times_it_wants(name):
    plain, isolated = get_config(name).to_dict(), get_config(name, "isolated").to_dict()
    assert isolated["model"].pop("isolated_context") is True
    assert isolated["flow"].pop("frame_times") == "frame_clean"
    assert plain["model"].pop("isolated_context") is False
    assert plain["flow"].pop("frame_times") == "frame"
    assert isolated == plain
    with pytest.raises(ValueError, match="no clean frames to isolate"):
        get_config(name, "isolated,constant")


CONFIGS = {
    "dmlab": PAPER,
    "faceforensics": PAPER,
    "maze": [*PAPER, "demo", "demo_smoke"],
    "maze_small": ["", "smoke", "constant", "time_independent"],
    "maze_scenes": [*PAPER, "unrelated", "labels", "all_captions", "no_context"],
    "own_videos": PAPER,
    "scenes_videos": [*PAPER, "unrelated"],
}


def test_every_config_file_is_known_here():
    files = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.py")}
    assert files - {"__init__", "maze_tokenizer", "my_way_home_tokenizer"} == CONFIGS.keys()


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, each) for name, all_ in CONFIGS.items() for each in all_]
)
def test_every_config_is_read_strictly_with_every_argument(name, arguments):
    config = read_config(get_config(name, arguments))
    chosen = set(arguments.split(","))
    assert config.model.time_conditioning is not ("time_independent" in chosen)
    assert config.flow.frame_times == ("constant" if "constant" in chosen else "frame")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_names_its_arguments(name):
    with pytest.raises(ValueError, match=r"'wrong'.*smoke"):
        get_config(name, "wrong")
    text = inspect.getdoc(importlib.import_module(f"configs.{name}"))
    assert f"python -m launch.train --config=configs/{name}.py --workdir=runs/" in text


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_stay_short(name):
    """They say what differs from the defaults."""
    assert len((Path(__file__).parents[1] / f"configs/{name}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        ("unrelated", ("windows", "unrelated"), ("context_probability", 0.0)),
        ("labels", ("condition", "labels"), ("context_probability", 0.5)),
        ("all_captions", ("scope", "all"), ("context_probability", 0.5)),
        ("no_context", ("context_probability", 0.0), ("windows", "consecutive")),
    ],
)
def test_ablations_of_scenes_change_one_thing_each(arguments, setting, value):
    plain, changed = (get_config("maze_scenes", each).to_dict() for each in ("", arguments))
    for name, expected in (setting, value):
        assert changed["scenes"][name] == expected
        changed["scenes"][name] = plain["scenes"][name]
    assert changed == plain


def test_windows_of_scenes_are_whole_scenes():
    maze, videos = (read_config(get_config(name)) for name in ("maze_scenes", "scenes_videos"))
    assert (videos.data.clip_frames, videos.scenes.num_scenes) == (48, 3)
    assert (maze.data.clip_frames, maze.scenes.num_scenes) == (18, 3)
    for config in (maze, videos):
        assert config.sampling.context_frames * 3 == config.data.clip_frames * 2
        assert config.scenes.drop_probability == 0.1 and config.scenes.context_probability == 0.5


def test_a_smoke_run_of_mazes_in_scenes(tmp_path):
    pytest.importorskip("vizdoom")
    source = {"train_videos": 8, "test_videos": 2, "num_scenes": 3}
    prepare_dataset(
        source="maze_scenes", output=tmp_path / "data", tokenizer="maze", source_settings=source
    )
    settings = get_config("maze_scenes", "smoke")
    settings.data.directory = str(tmp_path / "data")
    settings.run.num_steps = 2
    with quick_compilation():
        assert train(settings, tmp_path / "run", [previews])
        generator = VideoGenerator.load(tmp_path / "run")
        captions = [[s.caption for s in video["scenes"]] for video in generator._videos("test")]
        captions = [[*row, row[0]] for row in captions]
        found = scene_measures.measure_model(
            generator, captions, expanded=True, options={"guidance": 2.0}
        )
    assert found["nfe"] == 2 * 2 * 2 and found["videos"] == 2
    assert 0 <= found["semantic"] <= found["colours"] <= 100
    videos = generator._videos("test")
    real = scene_measures.measure_real(videos, generator.tokenizer, 2, 3)
    assert real["semantic"] == real["visual"] == 100
