"""Files written whole or not at all, digests, differences of settings."""

import hashlib
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskflow_jax.io import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_with_missing_folders(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "ü\udcff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "ü\\udcff".encode()
    files.write_with(tmp_path / "c", lambda path: path.write_bytes(b"123"))
    assert (tmp_path / "c").read_bytes() == b"123"
    assert names(tmp_path) == ["a", "c"]


def test_a_failure_keeps_the_old_file(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), files.atomic_file(tmp_path / "a") as part:
        part.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_the_umask_decides_about_the_mode(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "text", "")
        # safetensors itself makes files that only their owner may read.
        arrays = {"x": np.zeros(2, np.float32)}
        files.write_with(tmp_path / "weights", lambda path: save_file(arrays, path))
    finally:
        os.umask(before)
    for name in ("text", "weights"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_a_folder_takes_its_place_whole(tmp_path):
    for content in ("one", "two"):
        with files.atomic_folder(tmp_path / "d", inner="x/y") as part:
            (part / "x" / "y").mkdir(parents=True)
            (part / "x" / "y" / content).touch()
        assert names(tmp_path / "d") == [content] and names(tmp_path) == ["d"]
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "d"):
        raise RuntimeError
    assert names(tmp_path / "d") == ["two"] and names(tmp_path) == ["d"]


KILLED = """
import os, signal, sys
from maskflow_jax.io import files
with files.atomic_file(sys.argv[1]) as part, files.atomic_folder(sys.argv[2]) as folder:
    part.write_text("half")
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a"), str(tmp_path / "d")])
    assert [name.split(".")[-1] for name in names(tmp_path)] == ["part", "part"]
    files.write_text(tmp_path / "a", "whole")
    with files.atomic_folder(tmp_path / "d"):
        pass
    assert names(tmp_path) == ["a", "d"]


def test_only_what_is_abandoned_is_removed(tmp_path):
    ours, target = files._host(), tmp_path / "a[1]"
    lives, ended = os.getppid(), subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = [f".a[1].{ours}-{lives}-00000000.part", ".a[1].elsewhere-1-00000000.part"]
    kept += [".a[1].notes.part", f".a1.{ours}-{ended.pid}-00000000.part"]
    gone = [f".a[1].{ours}-{ended.pid}-00000001.part", f".a[1].{ours}-{os.getpid()}-00000002.part"]
    gone += [".a[1].elsewhere-1-00000003.part"]
    for name in kept + gone:
        (tmp_path / name).touch()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / gone[-1], (long_ago, long_ago))
    with files.atomic_file(target) as part:
        files.remove_leftovers(target)
        assert part.exists()  # this process writes it
    assert names(tmp_path) == sorted([*kept, "a[1]"])


def test_temporary_names_differ_where_process_ids_do_not(tmp_path):
    assert len({files.temporary_path(tmp_path / "a") for _ in range(9)}) == 9


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(b"1").hexdigest()
    one, other = [tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a"]
    assert files.sha256_of_files(one) != files.sha256_of_files(other)


def test_differences_have_dotted_names():
    before = {"a": {"b": 1, "c": {"d": None}}, "e": {}, "f": 1}
    after = {"a": {"b": 2, "c": {}}, "e": {}, "f": 1, "g": "x"}
    assert files.differences(before, after) == [
        "a.b was 1 and is 2",
        "a.c was absent and is {}",
        "a.c.d was None and is absent",
        "g was absent and is 'x'",
    ]
    assert files.differences(before, before) == []


def test_a_digest_of_json_is_of_every_value_and_of_no_order():
    values = ({"a": 1, "b": [2]}, {"a": 1, "b": [3]}, {"a": 1}, {"a": 1, "b": [2], "c": None})
    assert len({files.sha256_of_json(value) for value in values}) == 4
    assert files.sha256_of_json({"a": 1, "b": 2}) == files.sha256_of_json({"b": 2, "a": 1})


def test_a_digest_of_tokens_is_of_their_values_whatever_their_type_and_layout():
    tokens = np.arange(6).reshape(2, 3)
    known = hashlib.sha256(b"".join(bytes([i, 0, 0, 0]) for i in range(6))).hexdigest()
    same = (tokens.astype(np.uint16), tokens.astype(">i4"), np.asfortranarray(tokens))
    assert {files.sha256_of_tokens(each) for each in same} == {known}
    assert files.sha256_of_tokens(tokens[::-1]) != known
