"""The work directory: nothing half-done counts, a full disk loses nothing, settings are kept."""

import resource

import pytest
from videos import MeanEncoder, contents, moving, preparation, prepare, write_video

from maskflow_jax.data.preparation import assembly, work_directory
from maskflow_jax.data.preparation.assembly import assemble
from maskflow_jax.data.preparation.run import prepare_items
from maskflow_jax.data.preparation.work_directory import PreparationError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos of 9 to 15 frames."""
    root = tmp_path_factory.mktemp("films") / "in"
    for index in range(4):
        split = "test" if index == 1 else "train"
        write_video(root / split / f"{index}.mp4", moving(9 + 2 * index, phase=index))
    return root


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """The dataset of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("expected") / "out"
    prepare(preparation(folder, output, fps=5))
    return contents(output)


def test_other_settings_are_refused(folder, tmp_path):
    preparation(folder, tmp_path / "out", fps=5).work_directory()
    preparation(folder, tmp_path / "out", fps=5, min_frames=3).work_directory()
    with pytest.raises(ValueError, match=r"out\.work.*transform\.fps was 5 and is 6.*another"):
        preparation(folder, tmp_path / "out", fps=6).work_directory()
    other = preparation(folder, tmp_path / "out", fps=5)
    other.tokenizer["sha256"] = "2" * 64
    with pytest.raises(ValueError, match=r"tokenizer\.sha256"):
        other.work_directory()


def test_damaged_settings_are_named(folder, tmp_path):
    preparation(folder, tmp_path / "out").work_directory()
    (tmp_path / "out.work" / "settings.json").write_text("{")
    with pytest.raises(PreparationError, match=r"out\.work/settings\.json is damaged"):
        preparation(folder, tmp_path / "out").work_directory()


def test_two_processes_do_not_share_a_name(folder, tmp_path):
    work = preparation(folder, tmp_path / "out").work_directory()
    with (
        work.locked("all"),
        pytest.raises(PreparationError, match="another process"),
        work.locked("all"),
    ):
        pass
    with work.locked("all"):
        pass


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_full_disk_stops_and_continues(folder, expected, tmp_path):
    """Files may not grow beyond a size, as on a full disk."""
    prep = preparation(folder, tmp_path / "out", fps=5)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, unlimited[1]))  # 7 frames of 8 bytes, no record
    try:
        with pytest.raises(PreparationError, match=r"out\.work cannot be written"):
            prepare(prep)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    prepare(prep)
    assert contents(tmp_path / "out") == expected


def test_full_disk_midway_keeps_what_is_done(folder, expected, tmp_path, monkeypatch):
    prep = preparation(folder, tmp_path / "out", fps=5)
    with monkeypatch.context() as patch, pytest.raises(PreparationError, match="make room"):
        written = work_directory.files.write_text
        done = []

        def fill(path, data):
            done.append(path)
            (full_disk if len(done) > 4 else written)(path, data)

        patch.setattr(work_directory.files, "write_text", fill)
        prepare(prep)
    work = prep.work_directory()
    assert sum(work.is_done(item) for item in prep.source.listing().items) == 3
    assert not list((tmp_path / "out.work").rglob("*.part"))
    prepare(prep)
    assert contents(tmp_path / "out") == expected


def test_full_disk_while_assembling(folder, expected, tmp_path):
    prep = preparation(folder, tmp_path / "out", fps=5)
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(prep, listing.items, MeanEncoder(), work, progress=False)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (500, 5000):  # in the manifest; in the records
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(PreparationError, match="cannot be written"):
                assemble(prep, listing, work, test_fraction=0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.work"]
    assemble(prep, listing, work, test_fraction=0.3)
    assert contents(tmp_path / "out") == expected


def test_damaged_work_is_noticed(folder, tmp_path):
    prep = preparation(folder, tmp_path / "out")
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(prep, listing.items, MeanEncoder(), work, progress=False)
    tokens = next(work.path.rglob("*.tokens"))
    whole = tokens.read_bytes()
    for damage, message in ((whole[:-1], "cut off"), (bytes(len(whole)), "damaged")):
        tokens.write_bytes(damage)
        with pytest.raises(PreparationError, match=message):
            assemble(prep, listing, work)
    tokens.write_bytes(whole[:-1])
    prepare_items(prep, listing.items, MeanEncoder(), work, progress=False)
    assert tokens.read_bytes() == whole
    tokens.with_suffix(".json").write_text("{")
    with pytest.raises(PreparationError, match="delete it and run again"):
        assemble(prep, listing, work)


def test_where_files_cannot_be_locked(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    work = preparation(folder, tmp_path / "out").work_directory()
    monkeypatch.setattr(work_directory.fcntl, "flock", refuse)
    with pytest.raises(PreparationError, match=r"cannot be locked.*local disk"), work.locked("all"):
        pass


def test_work_that_cannot_be_removed_is_named(folder, tmp_path, monkeypatch, caplog):
    work = preparation(folder, tmp_path / "out").work_directory()
    monkeypatch.setattr(assembly.shutil, "rmtree", full_disk)
    with caplog.at_level("WARNING"):
        assembly.remove_work(work)
    assert "out.work is no longer needed and cannot be deleted" in caplog.text
