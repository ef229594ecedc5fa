"""What a compiled program sends between devices, counted from its text.

The bytes are those that one device sends, by the ring algorithms: of n devices that gather an array
of S bytes each sends S (n - 1) / n, a reduction sends twice as much, and a scatter or an exchange
as much as a gather. What stands in a loop counts as often as the loop turns.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "f64": 8}
_COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all"
    r"|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_WHILE = re.compile(r" while\(.*?body=%([\w.\-]+)")
_CALL = re.compile(r" call\(.*?to_apply=%([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(")
# How a line says which devices exchange data: a mesh and its axes, a shape of groups, or a list.
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[(?P<sizes>[^\]]*)\](?:, device_ids=\((?P<order>.*?)\))? "
    r"\{(?P<axes>[^}]*)\}"
)
_SHAPED_GROUPS = re.compile(
    r"replica_groups=\[(?P<groups>\d+),(?P<size>\d+)\]<=(?P<order>\[[\d,]+\](?:T\([\d,]+\))?)"
)
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")
_ORDER = re.compile(r"\[(?P<shape>[\d,]+)\](?:T\((?P<axes>[\d,]+)\))?")
_SENT = {  # bytes sent over the bytes of the result, for groups of n
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda _: 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Collectives of one kind among groups of one size.

    Attributes:
        kind: Name of the collective.
        group: Number of devices that take part together.
        span: Number of devices from the first to the last of a group: a group with a span larger
            than a node sends between nodes.
        bytes: Bytes that each device sends in one run of the program.
    """

    kind: str
    group: int
    span: int
    bytes: float


def transfers(program: str) -> list[Transfer]:
    """Counts what a device sends in one run.

    Args:
        program: Text of a compiled program, `compiled.as_text()`.

    Returns:
        One entry for each kind of collective and of group, the largest first.

    Raises:
        ValueError: if a loop that sends something does not say how often it turns, or a
            collective's groups have an unknown form.
    """
    computations = dict(_computations(program))
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    totals: dict[tuple[str, int, int], float] = {}
    _add(entry, 1, {name: lines for name, (_, lines) in computations.items()}, totals)
    found = [
        Transfer(kind=kind, group=group, span=span, bytes=sent)
        for (kind, group, span), sent in totals.items()
    ]
    return sorted(found, key=lambda transfer: -transfer.bytes)


def _computations(program: str) -> Iterator[tuple[str, tuple[bool, list[str]]]]:
    """Yields (name, (whether it is the entry, lines)) of every computation."""
    name, is_entry, lines = None, False, []
    for line in program.splitlines():
        if start := _COMPUTATION.match(line):
            if name:
                yield name, (is_entry, lines)
            name, is_entry, lines = start.group(2), bool(start.group(1)), []
        else:
            lines.append(line)
    if name:
        yield name, (is_entry, lines)


def _add(
    name: str,
    times: int,
    computations: Mapping[str, list[str]],
    totals: dict[tuple[str, int, int], float],
) -> bool:
    """Adds what a computation sends in so many runs; returns whether it sends anything."""
    sends = False
    for line in computations[name]:
        if found := _COLLECTIVE.search(line):
            group = _group(line)
            sent = _SENT[found["kind"]](len(group)) * _bytes(found["result"])
            if len(group) > 1:
                key = (found["kind"], len(group), int(np.ptp(group)) + 1)
                totals[key] = totals.get(key, 0) + times * sent
                sends = True
        elif called := _CALL.search(line):
            sends |= _add(called.group(1), times, computations, totals)
        elif loop := _WHILE.search(line):
            turns = _TURNS.search(line)
            count = int(turns.group(1)) if turns else 1
            inside = _add(loop.group(1), times * count, computations, totals)
            if inside and not turns:
                raise ValueError(f"loop {loop.group(1)} sends data and has no known trip count")
            sends |= inside
    return sends


def _bytes(result: str) -> int:
    """Size of an array, or of a tuple of arrays, in a program's text."""
    return sum(
        _BYTES.get(kind, 4) * math.prod(int(size) for size in shape.split(",") if size)
        for kind, shape in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", result))
    )


def _group(line: str) -> np.ndarray:
    """Numbers of the devices of a collective's first group."""
    if mesh := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh["sizes"]))
        names, shape = list(sizes), [int(size) for size in sizes.values()]
        devices = _devices(mesh["order"] or "", math.prod(shape)).reshape(shape)
        chosen = re.findall(r"'(\w+)'", mesh["axes"])
        return devices[tuple(slice(None) if name in chosen else 0 for name in names)].reshape(-1)
    if shaped := _SHAPED_GROUPS.search(line):
        groups, size = int(shaped["groups"]), int(shaped["size"])
        return _devices(shaped["order"], groups * size).reshape(groups, size)[0]
    if listed := _LISTED_GROUPS.search(line):
        return np.array([int(number) for number in listed.group(1).split(",")])
    if pairs := _PAIRS.search(line):
        return np.array([int(number) for number in pairs.groups()])
    raise ValueError(f"a collective without a known form of groups: {line.strip()[:300]}")


def _devices(order: str, count: int) -> np.ndarray:
    """Device numbers in an order such as "[2,4]T(1,0)": counted, shaped, transposed."""
    numbers = np.arange(count)
    if found := _ORDER.search(order):
        numbers = numbers.reshape([int(size) for size in found["shape"].split(",")])
        if found["axes"]:
            numbers = numbers.transpose([int(axis) for axis in found["axes"].split(",")])
    return numbers.reshape(-1)
