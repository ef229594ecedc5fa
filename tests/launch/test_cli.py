"""What every program does with its arguments and its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = '''"""A program for tests."""
from absl import flags
from ml_collections import config_flags
from launch import cli

flags.DEFINE_bool("overwrite", False, "Whether to overwrite.")
flags.DEFINE_string("fail", None, "Error to raise.")
config_flags.DEFINE_config_file("config", None)


def main(_):
    """Fails as it is told."""
    flags.FLAGS.overwrite and print("overwritten")
    if flags.FLAGS.fail == "code":
        return 3
    if flags.FLAGS.fail:
        raise eval(flags.FLAGS.fail)


if __name__ == "__main__":
    cli.run(main)
'''


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(path), *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_success(program):
    assert program("--overwrite") == (0, "overwritten\n", "")
    assert program("--fail=code")[0] == 3


def test_an_argument_that_is_left_over_is_refused(program):
    code, out, error = program("--overwrite", "false")
    assert (code, out) == (1, "")
    assert error.startswith("error: unexpected argument 'false'") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ("ValueError('two\\n  lines')", "error: two lines\n"),
        ("FileNotFoundError('no file')", "error: no file\n"),
        ("FileExistsError('taken')", "error: taken\n"),
        ("ImportError('pip install it')", "error: pip install it\n"),
        ("RuntimeError('it stopped')", "error: it stopped\n"),
        ("OSError(28, 'disk full')", "error: [Errno 28] disk full\n"),
        ("ValueError()", "error: ValueError\n"),
    ],
)
def test_an_error_of_the_library_is_one_line(program, raised, line):
    assert program(f"--fail={raised}") == (1, "", line)


def test_debug_and_defects_show_the_traceback(program):
    for arguments in (["--debug", "--fail=ValueError(1)"], ["--fail=KeyError(1)"]):
        code, _, error = program(*arguments)
        assert code == 1 and "Traceback" in error


def test_a_wrong_key_of_the_config_is_one_line(program, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("import ml_collections as m\nget_config = lambda: m.ConfigDict({'depth': 1})")
    assert program(f"--config={config}", "--config.depth=2")[0] == 0
    code, _, error = program(f"--config={config}", "--config.dept=2")
    assert code == 1 and error.count("\n") == 1
    assert error.startswith("error: 'dept' Did you mean \"depth\"")


def test_errors_of_flags_and_config_files_are_one_line(program, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("def get_config(mode):\n  raise ValueError(f'no mode {mode}')")
    code, _, error = program(f"--config={config}:fast")
    assert code == 1 and error.count("\n") == 1
    assert error.endswith("ValueError: no mode fast; --help lists the flags\n")
    code, _, error = program("--overwrite=perhaps")
    assert code == 1 and error.count("\n") == 1 and error.startswith("error: flag --overwrite")
    code, _, error = program("--overwritte")
    assert code == 1 and "Unknown command line flag 'overwritte'. Did you mean" in error
    assert "Traceback" in program(f"--config={config}:fast", "--debug")[2]


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_is_no_error(program, flag):
    code, out, _ = program(flag)
    assert code == 0
    assert "A program for tests." in out and "--[no]debug" in out and "--[no]overwrite" in out


@pytest.mark.parametrize(
    ("program", "given"),
    [
        ("prepare_data", ["--output=o", "--tokenizer=t", "--overwrite"]),
        ("export_tokenizer", ["--module=m:f", "--out=o", "--frame_size=8", "--codebook_size=8"]),
        ("export_weights", ["--workdir=w", "--out=o"]),
        ("import_weights", ["--checkpoint=c", "--keep_step"]),
        ("reconstruct", ["--tokenizer=t", "--out=o"]),
    ],
)
def test_programs_refuse_what_is_left_over(program, given):
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{program}", *given, "false"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: unexpected argument 'false'")
