"""The commands of README and docs run as they stand there, on small data and in reduced lengths.

Each runs in a folder of its own, in which data/X, tokenizers/X and runs/X are a tiny dataset, its
tokenizer and a run on it. `REDUCED` holds the flags that are appended to a command to shorten it;
`ELSEWHERE` names the test of the commands that need what a test cannot stand in for.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import programs
import pytest
from videos import moving

from maskflow_jax.io import video_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.usefixtures("compilation_cache")

FEW_STEPS = "--set=sampler.num_steps=2"
REDUCED = {
    "launch.sample": ["--length=8", "--num_videos=1", FEW_STEPS, "--set=context_frames=1"],
    "launch.evaluate": ["--length=12", "--num_videos=2", "--seeds=0", "--clip_frames=4", FEW_STEPS],
    "launch.compare": ["--trials=1", "--num_videos=1", "--factors=2"],
    "launch.prepare_data": ["--dry_run"],
    "launch.train": ["--dry_run"],
    "launch.jobs": [],
    "launch.report": [],
}
# Programs, or flags of them, and what tests them.
ELSEWHERE = {
    "launch.app": "test_app_page.py",
    "launch.benchmark": "test_benchmark.py",
    "launch.demo": ".ci/run",
    "launch.encode_captions": "test_hugging_face.py",
    "launch.export_tokenizer": "test_exported.py",
    "launch.export_weights": "test_released_weights.py",
    "launch.import_weights": "test_released_weights.py",
    "launch.measure_scenes": "test_configs.py",
    "launch.reconstruct": "test_reconstruction.py",
    "launch.results": "test_results.py",
    "launch.train_maze_features": "test_maze_features.py",
    "launch.train_tokenizer": "test_patch_vq_training.py",
    "--captions": "test_scenes.py",
    "--decode_only": "test_jobs.py",
    "--i3d": "test_i3d.py",
    "--table": "test_report.py",
    "--verify": "test_evaluator.py",
    "--path=samples/jobs": "test_jobs.py",
    "--source=dmlab": "test_sources.py",
    "--source=hdf5_tokens": "test_hdf5_tokens.py",
    "--source=maze": "test_maze.py",
    "--source=maze_scenes": "test_maze_scenes.py",
}


def commands():
    """All commands of the pages, a line each."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                for command in line.partition(" #")[0].split("&&"):
                    if match := re.search(r"python -m (launch\.\w+.*)", command):
                        yield page.name, match.group(1).strip()


def place(command):
    """Name of the test file that runs a command instead, or None."""
    name, *arguments = shlex.split(command)
    for key, file in ELSEWHERE.items():
        if key == name or any(text.split("=")[0] == key or text == key for text in arguments):
            return file
    return None


COMMANDS = sorted({command for _, command in commands() if "..." not in command})
HERE = [command for command in COMMANDS if place(command) is None]


@pytest.fixture(scope="module")
def stand_ins(tiny_run, tmp_path_factory):
    """Targets of the paths that commands name."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(2):
        frames = moving(48, 150, 150, phase=number)  # the size of FaceForensics
        video_files.write_mp4(folder / f"walk_{number}.mp4", frames, fps=8)
    world = tiny_run.parent
    return {"data": world / "data", "tokenizers": world / "tokenizer", "videos": folder}


def furnish(folder, command, stand_ins, run):
    """Puts in place what a command reads."""
    (folder / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    made = re.findall(r"--output=(\S+)", command)
    for text in re.findall(r"=((?:data|tokenizers|raw)/\w+|my_videos)", command):
        if text not in made:
            path = folder / text
            path.parent.mkdir(exist_ok=True)
            kind = text.partition("/")[0]
            path.symlink_to(stand_ins.get(kind, stand_ins["videos"]), target_is_directory=True)
    if not command.startswith("launch.train"):
        for text in re.findall(r"=(runs/\w+)", command):
            shutil.copytree(run, folder / text)
    job = {"length": 6, "sampler": {"num_steps": 2}, "context": {"split": "test", "index": 1}}
    (folder / "jobs.jsonl").write_text(json.dumps(job) + "\n")


@pytest.mark.parametrize("command", HERE)
def test_a_documented_command_runs(command, stand_ins, tiny_run, tmp_path):
    name, *arguments = shlex.split(command)
    furnish(tmp_path, command, stand_ins, tiny_run)
    if "--workdir=maze" in arguments:  # the shipped model, which is slower than a tiny one
        arguments.append(f"--workdir={tiny_run}")
    assert programs.call(name, *arguments, *REDUCED[name], folder=tmp_path) == 0


def test_what_runs_elsewhere_is_tested_there():
    for file in set(ELSEWHERE.values()):
        assert (ROOT / file).is_file() or len(list((ROOT / "tests").rglob(file))) == 1, file
    used = {place(command) for command in COMMANDS} - {None}
    assert used == set(ELSEWHERE.values()), used ^ set(ELSEWHERE.values())
    assert len(HERE) > 20


BLOCKS = {  # pages with Python, and what shortens it
    "evaluation.md": [
        ("length=80", "length=8, num_videos=2, seeds=(0,), clip_frames=4, bits_clips=2"),
        ("num_steps=20", "num_steps=2"),
    ],
    "maze.md": [("num_frames=320", "num_frames=8")],
    "sample.md": [("length=32", "length=17"), ("num_steps=8", "num_steps=2")],
}


@pytest.mark.parametrize("page", BLOCKS)
def test_the_python_of_a_page_runs(page, tiny_run, tmp_path, monkeypatch):
    text = (ROOT / "docs" / page).read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    for long, short in BLOCKS[page]:
        assert long in code
        code = code.replace(long, short)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/maze").symlink_to(tiny_run, target_is_directory=True)
    if page == "maze.md":
        pytest.importorskip("vizdoom")
    exec(compile(code, page, "exec"), {})
    if page == "sample.md":
        tokens = np.load("samples/sample_00001.npz")["tokens"]
        assert tokens.shape == (17, 8, 8)
