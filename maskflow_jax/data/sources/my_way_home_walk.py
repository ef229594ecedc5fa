"""How the camera walks through a maze: from room to room, without jitter, off the walls.

The engine reports its walls. A grid laid over them holds the distance to the nearest wall; a walker
picks a room, finds a way there on the grid by breadth-first search, and heads for the farthest
point of the way that it can reach in a straight line. Turning speed and turning acceleration are
bounded; gaze and pace sway a little. Ways keep clear of walls, and a walker that comes too close is
pushed off, so that the camera neither gets stuck nor stares at a wall.

Map units are Doom's: the player is 32 wide, a door 64, a room 160. Angles are in degrees,
counterclockwise from the x axis.
"""

import collections
import dataclasses
import math
from typing import Any

import numpy as np

_SPACING = 12.0  # between grid points
_ROUTE_CLEARANCE = 22.0  # routes keep this far from walls; the player's radius is 16
_SIGHT_CLEARANCE = 18.0  # and straight walking lines this far
_PUSH_CLEARANCE = 32.0  # nearer, walls push back: a square player catches on corners 22 away
_GOAL_CLEARANCE = 56.0  # more than a corridor has: goals lie well inside rooms
_VEST_CLEARANCE = 64.0
_ARRIVAL = 48.0
_LOOK_AHEAD = 160.0
_MAX_TURN = 3.2  # degrees per tic: 11 per frame at 10 frames/s
_MAX_TURN_CHANGE = 0.8  # degrees per tic, per action


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloorPlan:
    """Distance from each point of a grid to the nearest obstacle.

    Attributes:
        origin: [2], position of grid point (0, 0), in map units.
        clearance: [X, Y], in map units.
        away: [X, Y, 2], direction away from the obstacle, of length about 1.
    """

    origin: np.ndarray
    clearance: np.ndarray
    away: np.ndarray

    def cell(self, point: np.ndarray) -> np.ndarray:
        """Indices of the grid points nearest to points [..., 2], clipped to the grid."""
        cell = np.rint((point - self.origin) / _SPACING).astype(int)
        return np.clip(cell, 0, np.array(self.clearance.shape) - 1)

    def open_line(self, start: np.ndarray, end: np.ndarray) -> bool:
        """Whether one can walk straight from start [2] to end [2]."""
        steps = max(2, int(np.linalg.norm(end - start) / (_SPACING / 2)))
        line = self.cell(start + np.linspace(0, 1, steps)[:, None] * (end - start))
        return bool(np.all(self.clearance[line[:, 0], line[:, 1]] >= _SIGHT_CLEARANCE))


def floor_plan(state: Any) -> FloorPlan:
    """Lays the grid over the walls and the vest that an engine state reports.

    Args:
        state: A `vizdoom.GameState` with sectors and objects.

    Returns:
        The plan; around the vest, which ends an episode, it leaves no room to walk.
    """
    lines = [line for sector in state.sectors for line in sector.lines if line.is_blocking]
    walls = np.array([((w.x1, w.y1), (w.x2, w.y2)) for w in lines])  # [lines, end, xy]
    low, high = walls.min((0, 1)), walls.max((0, 1))
    axes = [np.arange(a, b + _SPACING, _SPACING) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)  # [X, Y, 2]
    clearance = np.full(grid.shape[:2], np.inf)
    for start, end in walls:
        along = ((grid - start) @ (end - start)) / np.sum((end - start) ** 2)
        nearest = start + np.clip(along, 0, 1)[..., None] * (end - start)
        clearance = np.minimum(clearance, np.linalg.norm(grid - nearest, axis=-1))
    for thing in state.objects:
        if thing.name != "DoomPlayer":
            away = np.linalg.norm(grid - (thing.position_x, thing.position_y), axis=-1)
            clearance = np.minimum(clearance, away - _VEST_CLEARANCE + _ROUTE_CLEARANCE)
    away = np.stack(np.gradient(clearance, _SPACING), -1)
    return FloorPlan(origin=low, clearance=clearance, away=away)


class Walker:
    """Strolls from room to room; `act` maps where the player is to what it does next."""

    def __init__(self, plan: FloorPlan, rng: np.random.Generator):
        self._plan, self._rng = plan, rng
        self._route = np.zeros((0, 2))  # [points, 2], from the player to the goal
        self._next = 0  # route point that the walker heads for
        self._past_goals = []
        self._turn = 0.0  # degrees per tic, positive to the left
        self._sway = 0.0  # degrees off the straight heading
        self._pace = 1.0

    def act(self, x: float, y: float, angle: float) -> list[float]:
        """One action: [speed ahead, speed to the right, turn to the right], to hold a few tics.

        Args:
            x: Position, in map units.
            y: Position, in map units.
            angle: Heading, in degrees counterclockwise from the x axis.

        Returns:
            Speeds in Doom's units (11 tends to 3.7 map units per tic) and degrees per tic.
        """
        here = np.array([x, y])
        self._follow_route(here, angle)
        self._sway = 0.95 * self._sway + self._rng.normal(0, 2.5)
        self._pace = np.clip(self._pace + self._rng.normal(0, 0.04), 0.7, 1.1)
        error = _turn_between(angle, _bearing(here, self._route[self._next]))
        wanted = np.clip(0.12 * (error + self._sway), -_MAX_TURN, _MAX_TURN)
        self._turn += np.clip(wanted - self._turn, -_MAX_TURN_CHANGE, _MAX_TURN_CHANGE)
        ahead = max(0.0, math.cos(math.radians(error)))
        sideways = ahead * math.sin(math.radians(error))
        push_ahead, push_left = self._push_off(here, angle)
        speed = 11 * self._pace
        forward, left = speed * ahead + push_ahead, speed * sideways + push_left
        return [float(forward), float(-left), float(-self._turn)]

    def _push_off(self, here: np.ndarray, angle: float) -> tuple[float, float]:
        """Speed (ahead, to the left) away from a wall that is too close, lest it holds us fast."""
        cell = tuple(self._plan.cell(here))
        lack = np.clip(_PUSH_CLEARANCE - self._plan.clearance[cell], 0, 8)
        x, y = lack * self._plan.away[cell]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        return x * cos + y * sin, y * cos - x * sin

    def _follow_route(self, here: np.ndarray, angle: float) -> None:
        """Moves on to the farthest route point in sight; near the goal, picks the next goal."""
        if not len(self._route) or np.linalg.norm(self._route[-1] - here) < _ARRIVAL:
            self._route, self._next = self._new_route(here, angle), 0
        while self._next + 1 < len(self._route):
            point = self._route[self._next + 1]
            if np.linalg.norm(point - here) > _LOOK_AHEAD or not self._plan.open_line(here, point):
                break
            self._next += 1

    def _new_route(self, here: np.ndarray, angle: float) -> np.ndarray:
        """The best of a few random goals: little turning to set out, far from past goals."""
        came_from = _flood(self._plan, self._free_cell(here))
        rooms = [c for c in came_from if self._plan.clearance[c] >= _GOAL_CLEARANCE]
        picks = self._rng.choice(len(rooms), size=6)
        routes = [_trace(self._plan, came_from, rooms[pick]) for pick in picks]

        def merit(route: np.ndarray) -> float:
            turn = abs(_turn_between(angle, _bearing(here, route[min(5, len(route) - 1)])))
            seen = [here, *self._past_goals]
            fresh = min(np.linalg.norm(route[-1] - place) for place in seen)
            return fresh / 160 - turn / 60

        best = max(routes, key=merit)
        self._past_goals = [*self._past_goals[-3:], best[-1]]
        return best

    def _free_cell(self, here: np.ndarray) -> tuple[int, int]:
        """The grid point with room to stand on that is nearest to a position [2]."""
        free = np.argwhere(self._plan.clearance >= _ROUTE_CLEARANCE)
        away = np.linalg.norm(self._plan.origin + free * _SPACING - here, axis=-1)
        return tuple(free[np.argmin(away)].tolist())


def _flood(plan: FloorPlan, start: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Breadth-first search: each reachable grid point -> the point before it on its way."""
    free = plan.clearance >= _ROUTE_CLEARANCE
    came_from, queue = {start: start}, collections.deque([start])
    while queue:
        i, j = queue.popleft()
        for di, dj in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            near = (i + di, j + dj)
            # The grid's rim lies on the outer walls, so no free point has a neighbour off the grid.
            if near not in came_from and free[near]:
                came_from[near] = (i, j)
                queue.append(near)
    return came_from


def _trace(plan: FloorPlan, came_from: dict, goal: tuple[int, int]) -> np.ndarray:
    """Positions [points, 2] from the search's start to the goal."""
    cells = [goal]
    while came_from[cells[-1]] != cells[-1]:
        cells.append(came_from[cells[-1]])
    return plan.origin + np.array(cells[::-1]) * _SPACING


def _bearing(start: np.ndarray, end: np.ndarray) -> float:
    """Direction from start [2] to end [2], in degrees."""
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def _turn_between(angle: float, target: float) -> float:
    """The shorter turn from one heading to another, in [-180, 180) degrees."""
    return (target - angle + 180) % 360 - 180
