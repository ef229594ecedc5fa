"""Bytes on the wire, counted from programs whose traffic is known."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from maskflow_jax.profiling.collectives import Transfer, transfers
from maskflow_jax.profiling.scaling import (
    HARDWARE,
    Count,
    Hardware,
    count,
    parse_mesh,
    plot,
    predict,
    table,
)

PROGRAM = """HloModule jit_f

%body.1 (p: f32[8]) -> f32[8] {
  %g = f32[8,4]{1,0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  ROOT %out = f32[8]{0} add(%p, %p)
}

%called.2 (p: f32[8]) -> f32[8] {
  %r = (f32[10]{0}, /*index=1*/bf16[6]{0}) all-reduce(%a), replica_groups=[2,4]<=[4,2]T(1,0)
}

ENTRY %main.3 (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  %d = f32[8]{0} call(%w), to_apply=%called.2
  %s = f32[2]{0} reduce-scatter(%d), replica_groups={{0,2},{1,3}}, to_apply=%sum
  %o = f32[4]{0} all-gather(%s), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}
  %q = f32[2]{0} collective-permute(%s), source_target_pairs={{0,3},{3,0}}
  %n = f32[2]{0} all-reduce(%d), replica_groups=mesh['a'=1] {'a'}, to_apply=%sum
}
"""


def test_kinds_groups_and_loops_are_counted():
    found = {(t.kind, t.group, t.span): t.bytes for t in transfers(PROGRAM)}
    assert found == {
        ("all-gather", 4, 4): 3 * 128 * 3 / 4,
        ("all-gather", 2, 5): 16 / 2,
        ("all-reduce", 4, 7): 2 * (40 + 12) * 3 / 4,
        ("reduce-scatter", 2, 3): 8,
        ("collective-permute", 2, 4): 8,
    }


def test_a_loop_that_sends_must_say_how_often():
    unknown = PROGRAM.replace('"known_trip_count":{"n":"3"}', "")
    with pytest.raises(ValueError, match=r"loop body\.1 sends data"):
        transfers(unknown)


def test_groups_of_an_unknown_form_are_an_error():
    with pytest.raises(ValueError, match="without a known form of groups"):
        transfers(PROGRAM.replace("source_target_pairs", "other_pairs"))


def test_a_compiled_program_of_one_device_sends_nothing():
    compiled = jax.jit(lambda x: jnp.sum(x @ x)).lower(jnp.ones((4, 4))).compile()
    assert transfers(compiled.as_text()) == []


COUNT = Count(
    mesh=(8, 1, 1),
    clips=1.0,
    flops=5e12,
    bytes=10,
    transfers=(
        Transfer(kind="all-reduce", group=8, span=8, bytes=7e9),
        Transfer(kind="all-gather", group=4, span=4, bytes=1e9),
    ),
)
DEVICE = Hardware(flops=10e12, memory=10, node=8, fast=8e9, slow=1e9)


def test_a_prediction_is_its_definition():
    found = predict(COUNT, DEVICE)
    assert (found.compute, found.send, found.fits) == (1.0, 1.0, True)
    assert found.efficiency == (0.5, 1.0)
    # A group of two nodes: four members share what goes from node to node.
    assert predict(COUNT, dataclasses.replace(DEVICE, node=4)).send == 7 / 4 + 1 / 8
    # One member on every node has to send all of it.
    apart = (dataclasses.replace(COUNT.transfers[0], group=2, span=9),)
    assert predict(dataclasses.replace(COUNT, transfers=apart), DEVICE).send == 7


def test_the_table_has_a_row_per_mesh_and_says_what_does_not_fit():
    big = Count(mesh=(1, 8, 1), clips=1.0, flops=1e12, bytes=int(20e9), transfers=COUNT.transfers)
    lines = table([COUNT, big]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 8 | 8 x 1 x 1 | 1 |")
    assert lines[3].count("does not fit") == 1  # 20 GB, on a v5e
    assert lines[0].count("efficiency") == len(HARDWARE)


def test_efficiency_is_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    plot([COUNT, dataclasses.replace(COUNT, mesh=(16, 1, 1))], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_meshes_are_read_and_wrong_ones_named():
    assert parse_mesh("8x2x1") == (8, 2, 1)
    for text in ("8x2", "8x0x1", "axbxc"):
        with pytest.raises(ValueError, match="is not DATAxFSDPxTENSOR"):
            parse_mesh(text)
    with pytest.raises(ValueError, match="needs more than"):
        count(tiny_config(), (4096, 1, 1), 1)
