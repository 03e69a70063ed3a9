"""Where a simulated vehicle drives: as a real one did, or along the city's roads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.city.folder import City
from data_prep.city.raster import BUILDING
from data_prep.drive import MAX_BRIDGED_GAP_NS, Drive, Times
from data_prep.errors import MaptileError
from data_prep.geometry import (
    Array,
    se3_from_xyzrpy,
    se3_inverse,
    wrap_angle,
)
from data_prep.simulate.gps_vo import fuse
from data_prep.sources import detect_format, open_drive
from data_prep.sources.formats.robotcar_tables import (
    find_extrinsics,
    read_gps,
    read_ins,
    read_vo,
)
from data_prep.sources.storage.archives import is_archive
from data_prep.sources.storage.tree import open_tree

MARGIN_M = 30.0
"""How far inside the map's edge a drive stays by default, metres."""

_CLEARANCE_M = 2.0
_SHORTEST_M = 30.0
_RATE_HZ = 50
_CRUISE, _SIDEWAYS, _PULL = 8.0, 2.0, 1.5  # m/s, and m/s2 in bends and along
_ROUTE_START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Trajectory:
    """The exact path of a simulated vehicle.

    Attributes:
        t_ns: (N,) strictly increasing.
        poses: (N, 3) float64 east, north (map frame, metres) and heading (radians
            counter-clockwise from grid east) of the vehicle frame, which stays level.
        segment: (N,) int32, non-decreasing; the stretches.
        source: Where it came from, in words.
        nudged_m: How far the path was moved at most to keep it out of the map's buildings.
    """

    t_ns: Times
    poses: Array
    segment: NDArray[np.int32]
    source: str
    nudged_m: float

    def speed(self) -> Array:
        """(N,) metres per second."""
        step = np.linalg.norm(np.diff(self.poses[:, :2], axis=0), axis=1)
        step /= np.diff(self.t_ns) / 1e9
        step[np.diff(self.segment) != 0] = 0.0
        return np.maximum(np.append(step, 0.0), np.insert(step, 0, 0.0))

    def length_m(self) -> float:
        """Metres travelled within the stretches."""
        step = np.linalg.norm(np.diff(self.poses[:, :2], axis=0), axis=1)
        return float(step[np.diff(self.segment) == 0].sum())


def open_trajectory(
    named: str, city: City, length_m: float, seed: int, outside: bool = False
) -> Trajectory:
    """The trajectory that a user names: ``route``, a drive, an ins.csv or rtk.csv, or a gps.csv.

    Args:
        named: ``route``, the path of a drive of any format that has a truth, or of a file in
            RobotCar's format; beside a gps.csv there has to be ``../vo/vo.csv``.
        city: The map to drive in.
        length_m: Length of a route.
        seed: Of a route.
        outside: Whether a trajectory is followed where it leaves the map; routes never do.

    Raises:
        MaptileError: It is none of these, or cannot be driven in this city.
    """
    margin_m = None if outside else MARGIN_M
    if named == "route":
        if not 10 <= length_m <= 1e6:
            raise MaptileError(f"a route of {length_m:g} m: give 10 m to 1000 km")
        return trajectory_from_route(city, length_m, seed)
    path = Path(named)
    if not path.is_file() or is_archive(path):
        tree = open_tree(path)
        if not tree.is_dir() and detect_format(tree) is None:
            raise MaptileError(
                f"{named}: no such file; name a drive, an ins.csv, a gps.csv, or say route"
            )
        return trajectory_from_drive(open_drive(path), city, margin_m)
    if path.name == "gps.csv":
        return trajectory_from_gps(path, path.parent.parent / "vo" / "vo.csv", city, margin_m)
    return trajectory_from_ins(path, city, margin_m)


def trajectory_from_drive(
    drive: Drive, city: City, margin_m: float | None = MARGIN_M
) -> Trajectory:
    """Follow the truth of a drive, straight from one sample to the next.

    Args:
        drive: Any drive with a truth.
        city: The map to drive in.
        margin_m: Stay this far inside the map; None: drive wherever the drive goes.

    Raises:
        MaptileError: The drive has no truth, or it is nowhere inside the map.
    """
    if drive.truth is None:
        raise MaptileError(f"{drive.name}: no truth in this drive, so no path to follow")
    step = 1_000_000_000 // _RATE_HZ
    t_ns = np.arange(drive.truth.t_ns[0], drive.truth.t_ns[-1] + 1, step)
    latitude, longitude, heading = drive.truth.at(t_ns)
    covered = np.isfinite(latitude)
    latitude, longitude, heading = latitude[covered], longitude[covered], heading[covered]
    projection = city.raster.projection
    heading = wrap_angle(heading + projection.convergence(latitude, longitude))
    poses = np.column_stack([projection.forward(latitude, longitude), heading])
    return _finish(t_ns[covered], poses, city, margin_m, f"truth of {drive.name}")


def trajectory_from_ins(path: Path, city: City, margin_m: float | None = MARGIN_M) -> Trajectory:
    """Follow an ins.csv of Oxford RobotCar.

    The INS corrects its position in jumps of up to half a metre; no vehicle jumps, so they are
    spread over seconds.

    Args:
        path: The file; extrinsics are looked for as for a run.
        city: The map to drive in.
        margin_m: Stay this far inside the map; None: drive wherever the file goes.

    Raises:
        MaptileError: The file cannot be read, or the path is nowhere inside the map.
    """
    ins = read_ins(path)
    projection = city.raster.projection
    position = projection.forward(ins.latitude, ins.longitude)
    convergence = projection.convergence(ins.latitude, ins.longitude)
    seconds = np.diff(ins.t_ns)[:, None] / 1e9
    turn = np.exp(1j * convergence)
    velocity = (ins.velocity[:, 1] + 1j * ins.velocity[:, 0]) * turn
    steps = np.stack([velocity.real, velocity.imag], axis=1)
    steps = (steps[1:] + steps[:-1]) / 2 * seconds
    dead_reckoned = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    position = dead_reckoned + gaussian_filter1d(
        position - dead_reckoned, 2.0 * _RATE_HZ, axis=0, mode="nearest"
    )
    lever = find_extrinsics(path.parent.parent, "ins")
    attitude = se3_from_xyzrpy(np.concatenate([np.zeros_like(ins.rpy), ins.rpy], axis=1))
    vehicle = attitude @ se3_inverse(lever)  # axes north, east, down, around the INS
    position += np.stack([vehicle[:, 1, 3], vehicle[:, 0, 3]], axis=1)
    yaw = np.arctan2(vehicle[:, 1, 0], vehicle[:, 0, 0])
    poses = np.column_stack([position, wrap_angle(np.pi / 2 - yaw + convergence)])
    return _finish(ins.t_ns, poses, city, margin_m, f"{path.name} of {_run_name(path)}")


def trajectory_from_gps(
    gps_path: Path, vo_path: Path, city: City, margin_m: float | None = MARGIN_M
) -> Trajectory:
    """Follow a gps.csv of Oxford RobotCar, which jumps, with the shape of the vo.csv beside it.

    Args:
        gps_path: The GPS file.
        vo_path: The visual odometry of the same run.
        city: The map to drive in.
        margin_m: Stay this far inside the map; None: drive wherever the files go.

    Raises:
        MaptileError: A file cannot be read, or the path is nowhere inside the map.
    """
    gps, vo = read_gps(gps_path), read_vo(vo_path)
    t_ns, poses = fuse(gps, vo, city.raster.projection)
    source = f"{gps_path.name} and {vo_path.name} of {_run_name(gps_path)}"
    return _finish(t_ns, poses, city, margin_m, source)


def trajectory_from_route(city: City, length_m: float, seed: int = 0) -> Trajectory:
    """Drive along the city's roads, at each junction the way taken least often so far.

    Raises:
        MaptileError: The map has no roads to drive on inside its edge.
    """
    rng = np.random.default_rng([seed, *b"route"])
    xy = _walk(city, length_m, rng)
    xy = _smooth(_resampled(xy, 0.5), 3.0 / 0.5)
    tangent = np.gradient(xy, axis=0)
    aside = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    lane = 1.2 + _smooth(rng.normal(0, 1, (len(xy), 1)), 80.0) * 4.0
    xy = _resampled(_smooth(xy + lane * aside, 2.0 / 0.5), 0.5)
    heading = np.unwrap(np.arctan2(*np.gradient(xy, axis=0).T[::-1]))
    seconds = _drive_times(xy, heading)
    grid = np.arange(0, seconds[-1], 1 / _RATE_HZ)
    poses = np.column_stack(
        [np.interp(grid, seconds, column) for column in (xy[:, 0], xy[:, 1], heading)]
    )
    poses[:, 2] = wrap_angle(poses[:, 2])
    t_ns = _ROUTE_START_NS + np.round(grid * 1e9).astype(np.int64)
    return _finish(t_ns, poses, city, 0.0, f"a route of {length_m:.0f} m (seed {seed})")


def _run_name(path: Path) -> str:
    return path.resolve().parent.parent.name


# --- From a path to a trajectory ----------------------------------------------------------------


def _finish(
    t_ns: Times, poses: Array, city: City, margin_m: float | None, source: str
) -> Trajectory:
    """Cut the path at the map's edge, and keep what is left out of the buildings."""
    inside = np.ones(len(poses), bool)
    if margin_m is not None:
        inside = city.raster.inside(poses[:, :2], margin_m)
    apart = np.append(np.diff(t_ns) > MAX_BRIDGED_GAP_NS, True)
    starts = np.flatnonzero(
        inside & (np.insert(~inside[:-1], 0, True) | np.insert(apart[:-1], 0, True))
    )
    stops = np.flatnonzero(inside & (np.append(~inside[1:], True) | apart)) + 1
    solid = _Solid(city)
    kept: list[tuple[Times, Array]] = []
    nudged = 0.0
    for start, stop in zip(starts, stops, strict=True):
        stretch = poses[start:stop]
        if np.linalg.norm(np.diff(stretch[:, :2], axis=0), axis=1).sum() < _SHORTEST_M:
            continue
        moved = solid.keep_out(stretch)
        nudged = max(nudged, float(np.hypot(*(moved - stretch)[:, :2].T).max()))
        kept.append((t_ns[start:stop], moved))
    if not kept:
        raise MaptileError(
            f"{source}: no {_SHORTEST_M:.0f} m of it lie inside the map of {city.name}; "
            "choose the city of the drive"
        )
    segment = np.repeat(np.arange(len(kept)), [len(times) for times, _ in kept])
    return Trajectory(
        np.concatenate([times for times, _ in kept]),
        np.concatenate([moved for _, moved in kept]),
        segment.astype(np.int32),
        source,
        nudged,
    )


class _Solid:
    """The map's buildings as something to keep away from.

    The path, not the map, gives way: the vehicle did drive on the street, and it is the GPS that is
    metres off there.
    """

    def __init__(self, city: City) -> None:
        raster = city.raster
        built = raster.data[BUILDING] > 0
        outside = distance_transform_edt(~built)
        inside = distance_transform_edt(built)
        self._raster = raster
        self._distance = ((outside - inside) * raster.resolution).astype(np.float32)
        self._gradient = np.gradient(self._distance, raster.resolution)

    def keep_out(self, poses: Array) -> Array:
        """Move (N, 3) poses so that they stay ``_CLEARANCE_M`` from buildings, smoothly."""
        travelled = np.insert(np.cumsum(np.hypot(*np.diff(poses[:, :2], axis=0).T)), 0, 0.0)
        count = max(4, int(travelled[-1]) + 1)
        s = np.linspace(0, travelled[-1], count)
        xy = np.stack([np.interp(s, travelled, poses[:, i]) for i in (0, 1)], axis=1)
        offset = np.zeros_like(xy)
        for _ in range(400):
            distance, away = self._at(xy + offset)
            push = np.maximum(_CLEARANCE_M - distance, 0.0)[:, None] * away
            if np.abs(push).max() < 0.05:
                break
            offset = offset + gaussian_filter1d(push, 3.0, axis=0, mode="nearest")
        offset = gaussian_filter1d(offset, 3.0, axis=0, mode="nearest")
        bend = np.gradient(offset, s[1], axis=0)
        tangent = np.gradient(xy, s[1], axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
        sideways = tangent[:, 0] * bend[:, 1] - tangent[:, 1] * bend[:, 0]
        turn = np.arctan2(sideways, 1 + np.sum(tangent * bend, axis=1))
        change = np.column_stack([offset, turn])
        moved = poses + np.stack([np.interp(travelled, s, c) for c in change.T], axis=1)
        moved[:, 2] = wrap_angle(moved[:, 2])
        return moved

    def _at(self, xy: Array) -> tuple[Array, Array]:
        """(N,) signed distances to the nearest wall and (N, 2) unit vectors away from it."""
        pixel = self._raster.pixel_from_world(xy).T - 0.5
        distance, down, right = (
            map_coordinates(field, pixel, order=1, mode="nearest")
            for field in (self._distance, *self._gradient)
        )
        away = np.stack([right, -down], axis=1)
        return distance, away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)


# --- Routes -------------------------------------------------------------------------------------


def _walk(city: City, length_m: float, rng: np.random.Generator) -> Array:
    """(N, 2) a walk of up to ``length_m`` metres over the road graph, never turning back."""
    table = city.roads()
    roads = shapely.unary_union(table[table["kind"] == "road"].geometry.values)
    edges = [np.array(line.coords) for line in shapely.get_parts(roads)]
    edges = _joined([xy for xy in edges if city.raster.inside(xy, MARGIN_M).all()])
    if not edges:
        raise MaptileError(f"{city.name}: no roads inside the map to drive a route on")
    ways: dict[bytes, list[tuple[int, Array]]] = {}
    for number, xy in enumerate(edges):
        ways.setdefault(_node(xy[0]), []).append((number, xy))
        ways.setdefault(_node(xy[-1]), []).append((number, xy[::-1]))
    used = np.zeros(len(edges))
    last, here = -1, _node(edges[int(rng.integers(len(edges)))][0])
    pieces: list[Array] = []
    total = 0.0
    while total < length_m:
        options = [way for way in ways[here] if way[0] != last]
        if not options:
            break
        last, xy = min(options, key=lambda way: used[way[0]] + rng.random())
        used[last] += 1
        pieces.append(xy)
        total += float(np.hypot(*np.diff(xy, axis=0).T).sum())
        here = _node(xy[-1])
    return np.concatenate([pieces[0][:1], *[piece[1:] for piece in pieces]])


def _joined(edges: list[Array]) -> list[Array]:
    """The largest connected part of a road graph, without its dead ends if that leaves any."""
    while edges:
        names = [[_node(xy[0]), _node(xy[-1])] for xy in edges]
        _, node = np.unique(np.array(names), return_inverse=True)
        node = node.reshape(-1, 2)
        graph = coo_array((np.ones(len(node)), node.T), shape=(node.max() + 1,) * 2)
        part = connected_components(graph, directed=False)[1][node[:, 0]]
        largest = part == np.argmax(np.bincount(part))
        through = (np.bincount(node.ravel()) > 1)[node].all(axis=1)
        keep = largest & through if (largest & through).any() else largest
        if keep.all():
            break
        edges = [xy for xy, kept in zip(edges, keep, strict=True) if kept]
    return edges


def _node(xy: Array) -> bytes:
    return str(np.round(xy, 2).tolist()).encode()


def _resampled(xy: Array, step: float) -> Array:
    travelled = np.insert(np.cumsum(np.hypot(*np.diff(xy, axis=0).T)), 0, 0.0)
    s = np.arange(0, travelled[-1], step)
    return np.stack([np.interp(s, travelled, xy[:, i]) for i in (0, 1)], axis=1)


def _smooth(values: Array, sigma: float) -> Array:
    return np.asarray(gaussian_filter1d(values, sigma, axis=0, mode="nearest"))


def _drive_times(xy: Array, heading: Array) -> Array:
    """(N,) seconds at each point: as fast as the bends and the engine allow."""
    step = np.hypot(*np.diff(xy, axis=0).T)
    curvature = np.abs(np.gradient(heading)) / np.mean(step)
    speed = np.minimum(_CRUISE, np.sqrt(_SIDEWAYS / np.maximum(curvature, 1e-6)))
    speed[0] = speed[-1] = 1.0
    for order in (range(1, len(speed)), range(len(speed) - 2, -1, -1)):
        for i in order:
            before = speed[i - 1] if order.step > 0 else speed[i + 1]
            speed[i] = min(speed[i], np.sqrt(before**2 + 2 * _PULL * np.mean(step)))
    return np.insert(np.cumsum(step / (speed[1:] + speed[:-1]) * 2), 0, 0.0)
