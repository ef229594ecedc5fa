"""What a compiled program sends between devices, counted from its text.

The bytes are those that one device sends, by the ring algorithms: of n devices that gather an array
of S bytes each sends S (n - 1) / n, a reduction sends twice as much, and a scatter or an exchange
as much as a gather. What stands in a loop counts as often as the loop turns.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

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
# How a line says how many devices exchange data: a mesh and its axes, a shape of groups, or a list.
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_SHAPED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
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
        bytes: Bytes that each device sends in one run of the program.
    """

    kind: str
    group: int
    bytes: float


def transfers(program: str) -> list[Transfer]:
    """Counts what a device sends in one run.

    Args:
        program: Text of a compiled program, `compiled.as_text()`.

    Returns:
        One entry for each kind and size of group, the largest first.

    Raises:
        ValueError: if a loop that sends something does not say how often it turns.
    """
    computations = dict(_computations(program))
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    totals: dict[tuple[str, int], float] = {}
    _add(entry, 1, {name: lines for name, (_, lines) in computations.items()}, totals)
    found = [Transfer(kind=kind, group=n, bytes=sent) for (kind, n), sent in totals.items()]
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
    totals: dict[tuple[str, int], float],
) -> bool:
    """Adds what a computation sends in so many runs; returns whether it sends anything."""
    sends = False
    for line in computations[name]:
        if found := _COLLECTIVE.search(line):
            size = _group_size(line)
            sent = _SENT[found["kind"]](size) * _bytes(found["result"])
            if size > 1:
                key = (found["kind"], size)
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


def _group_size(line: str) -> int:
    if mesh := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)))
    if shaped := _SHAPED_GROUPS.search(line):
        return int(shaped.group(1))
    if listed := _LISTED_GROUPS.search(line):
        return len(listed.group(1).split(","))
    return 1
