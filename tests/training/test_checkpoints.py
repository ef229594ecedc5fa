"""Checkpoints that are whole, cut, missing, unfinished, and a disk that is full."""

import contextlib
import json
import resource
import shutil
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gates import CONFIG, Gate, make_state
from tiny import assert_same, host_copy

from maskflow_jax.training.checkpoints import CheckpointError, Checkpoints


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def saved(tmp_path, world):
    """A folder with checkpoints of steps 1, 2 and 3, batch for batch."""
    checkpoints, batches = Checkpoints(tmp_path, keep=3), world.batches()
    for step in (1, 2, 3):
        next(batches)
        checkpoints.save(make_state(step), batches, CONFIG)
    checkpoints.close()
    return tmp_path


def restore(workdir, world):
    checkpoints, batches = Checkpoints(workdir), world.batches()
    state = checkpoints.restore(make_state(0), batches)
    checkpoints.close()
    return state, batches.get_state()["next_batch"]


def big_file(folder):
    """The file with an item's arrays."""
    return max(folder.glob("**/d/*"), key=lambda file: file.stat().st_size)


def flip(file):
    """Changes one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(bytes(content))


def other_position(file):
    content = file.read_text()
    assert '"next_batch": 3' in content
    file.write_text(content.replace('"next_batch": 3', '"next_batch": 7'))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {
    "cut arrays": lambda step: cut(big_file(step / "train_state" / "ocdbt.process_0")),
    "no arrays": lambda step: big_file(step / "train_state" / "ocdbt.process_0").unlink(),
    "cut index": lambda step: cut(step / "train_state" / "manifest.ocdbt"),
    "cut metadata": lambda step: cut(step / "train_state" / "_METADATA"),
    "cut average": lambda step: cut(big_file(step / "ema_params" / "ocdbt.process_0")),
    "a flipped bit": lambda step: flip(big_file(step / "train_state" / "ocdbt.process_0")),
    "a flipped bit of the average": lambda step: flip(big_file(step / "ema_params")),
    "another position": lambda step: (step / "data" / "process_0-of-1.json").write_text(
        (step / "data" / "process_0-of-1.json")
        .read_text()
        .replace('"next_batch": 3', '"next_batch": 7')
    ),
    "other digests": lambda step: (step / "digests" / "metadata").write_text("{}"),
    "cut data": lambda step: cut(step / "data" / "process_0-of-1.json"),
    "no data": lambda step: shutil.rmtree(step / "data"),
    "no average": lambda step: shutil.rmtree(step / "ema_params"),
    "no train state": lambda step: shutil.rmtree(step / "train_state"),
}


def test_five_items_and_exact_restore(saved, world):
    items = {path.name for path in (saved / "checkpoints" / "3").iterdir() if path.is_dir()}
    assert items == {"train_state", "ema_params", "data", "config", "digests"}
    assert json.loads((saved / "checkpoints/3/config/metadata").read_text()) == CONFIG
    state, position = restore(saved, world)
    assert_same(host_copy(state), host_copy(make_state(3)))
    assert position == 3


def test_keeps_the_newest(saved, world):
    checkpoints, batches = Checkpoints(saved, keep=2), world.batches()
    assert checkpoints.restore(make_state(0), batches)["step"] == 3
    checkpoints.save(make_state(4), batches, CONFIG)
    checkpoints.wait()
    assert checkpoints.steps() == [3, 4]
    checkpoints.close()


def test_a_save_is_of_its_moment(tmp_path, world):
    """Saving is in the background, while the step's buffers are donated and batches read."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints, batches, state = Checkpoints(tmp_path), world.batches(), make_state(1, 200_000)
    before = host_copy(state)
    next(batches)
    checkpoints.save(state, batches, CONFIG)
    for _ in range(3):
        state = step(state)
        next(batches)
    checkpoints.wait()
    assert_same(host_copy(checkpoints.restore(state, batches)), before)
    assert batches.get_state()["next_batch"] == 1
    checkpoints.close()


def test_the_average_alone(saved):
    shutil.rmtree(saved / "checkpoints" / "3" / "train_state")
    checkpoints = Checkpoints(saved)
    _, params = checkpoints.restore_ema_params(abstract(make_state(0)["ema_params"]))
    assert_same(host_copy(params), host_copy(make_state(3)["ema_params"]))
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.close()


def test_reading_the_average_moves_nothing(saved):
    """Sampling may run beside a training that owns the folder."""
    cut(big_file(saved / "checkpoints/3/ema_params/ocdbt.process_0"))
    (saved / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    files = sorted(saved.rglob("*"))
    checkpoints = Checkpoints(saved)
    _, params = checkpoints.restore_ema_params(abstract(make_state(0)["ema_params"]))
    assert_same(host_copy(params), host_copy(make_state(2)["ema_params"]))
    checkpoints.close()
    assert sorted(saved.rglob("*")) == files


def test_both_weights_without_the_optimiser(saved):
    files, shapes = sorted(saved.rglob("*")), abstract(make_state(0)["params"])
    checkpoints = Checkpoints(saved)
    step, params, ema_params = checkpoints.restore_weights(shapes)
    checkpoints.close()
    assert step == 3
    assert_same(host_copy(params), host_copy(make_state(3)["params"]))
    assert_same(host_copy(ema_params), host_copy(make_state(3)["ema_params"]))
    assert sorted(saved.rglob("*")) == files
    with pytest.raises(CheckpointError, match=r"no complete checkpoint"):
        Checkpoints(saved / "none").restore_weights(shapes)


def test_imported_weights_start_the_data_from_its_beginning(tmp_path, world):
    checkpoints, batches = Checkpoints(tmp_path, keep=3), world.batches()
    checkpoints.save_imported(make_state(4), CONFIG, {"file": "w.pt"})
    next(batches)
    checkpoints.save(make_state(5), batches, CONFIG)
    checkpoints.close()
    assert json.loads((tmp_path / "checkpoints/4/imported/metadata").read_text())["file"] == "w.pt"
    assert restore(tmp_path, world)[1] == 1
    DAMAGES["no average"](tmp_path / "checkpoints" / "5")  # after its data position was read
    state, position = restore(tmp_path, world)
    assert (int(state["step"]), position) == (4, 0)
    shutil.rmtree(tmp_path / "checkpoints" / "4" / "imported")
    with pytest.raises(CheckpointError, match="step 4"):
        restore(tmp_path, world)


@pytest.mark.parametrize("damage", DAMAGES)
def test_falls_back_to_the_last_readable_one(saved, world, caplog, damage):
    DAMAGES[damage](saved / "checkpoints" / "3")
    checkpoints, batches = Checkpoints(saved), world.batches()
    state = checkpoints.restore(make_state(0), batches)
    assert_same(host_copy(state), host_copy(make_state(2)))
    assert batches.get_state()["next_batch"] == 2
    assert "step 3" in caplog.text
    assert "damaged_checkpoint_3" in caplog.text
    assert (saved / "damaged_checkpoint_3").is_dir()
    next(batches)
    checkpoints.save(make_state(3), batches, CONFIG)  # the run comes by that step again
    checkpoints.close()
    state, position = restore(saved, world)
    assert (int(state["step"]), position) == (3, 3)


def test_a_flipped_bit_is_noticed_where_weights_are_read(saved):
    flip(big_file(saved / "checkpoints" / "3" / "ema_params"))
    checkpoints = Checkpoints(saved)
    step, params = checkpoints.restore_ema_params(abstract(make_state(0)["ema_params"]))
    assert step == 2
    assert_same(host_copy(params), host_copy(make_state(2)["ema_params"]))
    checkpoints.close()


def test_a_checkpoint_of_an_earlier_version_has_no_digests(saved, world):
    shutil.rmtree(saved / "checkpoints" / "3" / "digests")
    assert restore(saved, world)[0]["step"] == 3


def test_all_damaged_is_an_error_that_lists_them_and_moves_nothing(saved, world):
    for step in (1, 2, 3):
        DAMAGES["cut arrays"](saved / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match=r"(?s)move the folder away.*step 3.*step 2.*step 1"):
        restore(saved, world)
    assert Checkpoints(saved).steps() == [1, 2, 3]


def test_other_shapes_are_an_error_that_names_them(saved, world):
    checkpoints = Checkpoints(saved)
    with pytest.raises(CheckpointError, match=r"(?s)with this config.*\(32, 8\).*\(256, 8\)"):
        checkpoints.restore(make_state(0, width=32), world.batches())
    assert checkpoints.steps() == [1, 2, 3]  # nothing was taken for damaged and moved


def test_another_dataset_is_an_error_that_names_the_difference(saved, world):
    batches = world.batches()
    batches._settings["videos"] = 77
    with pytest.raises(CheckpointError, match=r"and dataset(?s:.*)videos was 5 and is 77"):
        Checkpoints(saved).restore(make_state(0), batches)


def test_no_checkpoint(tmp_path, world):
    assert restore(tmp_path, world) == (None, 0)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"no complete checkpoint"):
        checkpoints.restore_ema_params(abstract(make_state(0)["ema_params"]))


def test_an_unfinished_save_is_ignored_and_cleared(saved, world):
    unfinished = saved / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(saved / "checkpoints" / "3", unfinished)
    state, _ = restore(saved, world)
    assert state["step"] == 3
    assert not unfinished.exists()


def test_a_step_that_is_not_new_is_not_dropped_quietly(saved, world):
    checkpoints = Checkpoints(saved)
    with pytest.raises(CheckpointError, match="step 2 is not newer"):
        checkpoints.save(make_state(2), world.batches(), CONFIG)


def test_training_goes_on_while_a_save_is_written(tmp_path, world):
    checkpoints, batches, state = Checkpoints(tmp_path), world.batches(), world.state()
    state, _ = world.step(state, next(batches))
    before = host_copy(state)
    with Gate() as gate:
        checkpoints.save(state, batches, CONFIG)
        assert gate.reached.wait(20)
        for _ in range(3):  # its buffers are donated
            state, metrics = world.step(state, next(batches))
        assert np.isfinite(metrics["loss"])
        assert checkpoints.steps() == []
    checkpoints.wait()
    assert checkpoints.steps() == [1]
    restored = checkpoints.restore(state, batches)
    assert_same(host_copy(restored), before)
    assert batches.get_state()["next_batch"] == 1
    checkpoints.close()


@contextlib.contextmanager
def full_disk():
    """Files may not grow beyond a size, and a checkpoint of width 100,000 does."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def test_one_failed_save_is_logged_and_the_next_is_tried(saved, world, caplog):
    checkpoints, batches = Checkpoints(saved, keep=3), world.batches()
    for failing in (4, 6):  # twice, but not in a row
        with full_disk():
            checkpoints.save(make_state(failing, width=100_000), batches, CONFIG)
            checkpoints._finish()
        caplog.clear()
        checkpoints.save(make_state(failing + 1), batches, CONFIG)
        assert f"step {failing}: " in caplog.text
        assert "second try" in caplog.text
    checkpoints.wait()
    assert checkpoints.steps() == [3, 5, 7]
    for _ in range(50):  # a thread of a failed save may still be at its folder
        if not list((saved / "checkpoints").glob("*tmp*")):
            break
        time.sleep(0.1)
        checkpoints.wait()
    assert not list((saved / "checkpoints").glob("*tmp*"))
    checkpoints.close()


def test_the_second_failure_in_a_row_is_raised(saved, world):
    checkpoints, batches = Checkpoints(saved, keep=3), world.batches()
    with full_disk():
        for step in (4, 5):
            checkpoints.save(make_state(step, width=100_000), batches, CONFIG)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.save(make_state(6, width=100_000), batches, CONFIG)
    for part in (f"saving to {saved}/checkpoints", "MB free", "step 5: ", "steps [1, 2, 3]"):
        assert part in str(caught.value)
    assert "it goes on from step 3" in str(caught.value)
    checkpoints.close()  # has been said; nothing is under way


def test_a_save_that_cannot_begin_counts_too(saved, world):
    checkpoints, batches = Checkpoints(saved, keep=3), world.batches()
    with mock.patch.object(checkpoints._manager, "save", side_effect=OSError("no storage")):
        checkpoints.save(make_state(4), batches, CONFIG)
        with pytest.raises(CheckpointError, match="step 5: no storage"):
            checkpoints.save(make_state(5), batches, CONFIG)


def test_the_last_save_of_a_run_is_never_let_go(saved, world):
    checkpoints = Checkpoints(saved, keep=3)
    with mock.patch.object(checkpoints._manager, "save", side_effect=OSError("no storage")):
        checkpoints.save(make_state(4), world.batches(), CONFIG)
    with pytest.raises(CheckpointError, match="step 4: no storage"):
        checkpoints.wait()


@pytest.mark.parametrize("then", ["wait", "save", "close"])
def test_a_full_disk(saved, world, then):
    """Writing beyond a size fails as on a full disk; the error comes from a background thread."""
    checkpoints, batches = Checkpoints(saved, keep=3), world.batches()
    big = make_state(4, width=100_000)
    with full_disk(), pytest.raises(CheckpointError) as caught:
        checkpoints.save(big, batches, CONFIG)
        if then == "save":
            checkpoints.save({**big, "step": jnp.int32(5)}, batches, CONFIG)
        getattr(checkpoints, "close" if then == "close" else "wait")()
    message = str(caught.value)
    assert str(saved / "checkpoints") in message
    assert "MB free" in message
    assert "steps [1, 2, 3]" in message
    state, _ = restore(saved, world)
    assert state["step"] == 3
    assert not list(Path(saved / "checkpoints").glob("*tmp*"))
