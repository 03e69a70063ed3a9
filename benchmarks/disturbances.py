"""Drives with a disturbance: what happens to vehicles that are localized live."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.drive import Drive, PoseTrack, ScanBlock, ScanSource, Times
from data_prep.geometry import Array, se3_inverse
from maptile_loc.report.metrics import truth_in_map

KINDS = ("kidnapped", "wrong fix", "odometry gap", "blinded", "off the map")
"""The disturbances. A kidnapped vehicle goes on elsewhere, as if nothing had happened; a wrong fix
is a vehicle that is sure of a position 40 to 100 m off."""

BEGIN, END = 0.4, 0.6
"""Parts of the drive's travel between which it is disturbed."""

MARGIN_M = 30.0
"""Least distance of the scans before a vehicle leaves the map from its edge, metres."""


@dataclass(frozen=True)
class ChosenScans:
    """Some scans of another source, in any order, at other times, some without points.

    Attributes:
        source: The other source.
        index: (S,) which of its scans.
        t_ns: (S,) their times.
        blind: (S,) which have lost their points.
    """

    source: ScanSource
    index: NDArray[np.int64]
    t_ns: Times
    blind: NDArray[np.bool_]

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors of the source."""
        return self.source.sensors

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive)."""
        parts = []
        for number in range(*slice(start, stop).indices(len(self.t_ns))):
            at = int(self.index[number])
            block = self.source.read(at, at + 1)
            if self.blind[number]:
                seconds = None if block.seconds is None else block.seconds[:0]
                block = replace(
                    block, points=block.points[:0], scan=block.scan[:0], seconds=seconds
                )
            parts.append(block)
        seconds = [part.seconds for part in parts if part.seconds is not None]
        return ScanBlock(
            self.t_ns[start:stop],
            np.concatenate([part.points for part in parts]),
            np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.points) for p in parts]),
            np.concatenate([part.origin for part in parts]),
            np.concatenate(seconds) if len(seconds) == len(parts) else None,
        )


@dataclass(frozen=True)
class Disturbed:
    """A disturbed drive.

    Attributes:
        drive: Without truth.
        raster: The map that it is localized on.
        truth: (S, 3) true pose at each scan, map frame.
        travelled: (S,) metres travelled at each scan.
        over: First scan after the disturbance.
        wrong_m: East and north metres by which the vehicle is put elsewhere at scan ``over``, or
            None.
    """

    drive: Drive
    raster: MapRaster
    truth: Array
    travelled: Array
    over: int
    wrong_m: tuple[float, float] | None = None


def disturbed(drive: Drive, raster: MapRaster, kind: str, seed: int) -> Disturbed | None:
    """A drive with a disturbance of one kind; None if this drive does not allow it."""
    assert drive.odometry is not None and drive.truth is not None
    t_ns = drive.scans.t_ns
    truth = truth_in_map(drive.truth, raster, t_ns)
    poses = drive.odometry.at(t_ns)
    step = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(step)])
    begin, end = np.searchsorted(travelled, travelled[-1] * np.array([BEGIN, END])).tolist()
    every = np.arange(len(t_ns))
    plain = Disturbed(made(drive, every, t_ns, poses), raster, truth, travelled, end)
    if kind == "kidnapped":
        kept = np.concatenate([every[:begin], every[end:]])
        times = t_ns.copy()
        times[end:] -= t_ns[end] - t_ns[begin]
        motion = se3_inverse(poses[begin - 1]) @ poses[begin]
        moved = poses.copy()
        moved[end:] = poses[begin - 1] @ motion @ se3_inverse(poses[end]) @ poses[end:]
        travelled = travelled - np.where(every >= end, travelled[end] - travelled[begin], 0.0)
        other = made(drive, kept, times[kept], moved[kept])
        return Disturbed(other, raster, truth[kept], travelled[kept], begin)
    if kind == "wrong fix":
        rng = np.random.default_rng(seed)
        angle, metres = rng.uniform(0, 2 * np.pi), rng.uniform(40, 100)
        off = float(metres * np.cos(angle)), float(metres * np.sin(angle))
        return replace(plain, over=begin, wrong_m=off)
    if kind == "odometry gap":
        known = (every < begin) | (every >= end)
        track = PoseTrack(t_ns[known], poses[known], (every[known] >= end).astype(np.int32))
        return replace(plain, drive=replace(plain.drive, odometry=track))
    if kind == "blinded":
        blind = (every >= begin) & (every < end)
        return replace(plain, drive=made(drive, every, t_ns, poses, blind))
    return off_the_map(drive, raster, truth, poses, travelled)


def rest_of(case: Disturbed) -> Disturbed:
    """A drive that begins where a disturbance is over."""
    assert case.drive.odometry is not None
    kept, t_ns = np.arange(case.over, len(case.truth)), case.drive.scans.t_ns[case.over :]
    rest = made(case.drive, kept, t_ns, case.drive.odometry.at(t_ns))
    travelled = case.travelled[case.over :] - case.travelled[case.over]
    return Disturbed(rest, case.raster, case.truth[case.over :], travelled, 0)


def off_the_map(
    drive: Drive, raster: MapRaster, truth: Array, poses: Array, travelled: Array
) -> Disturbed | None:
    """A drive that leaves a part of the map, turns round outside of it, and comes back.

    It goes out as it was driven and back in reverse. None if no straight edge of a map has the
    first half of the drive on one side and a fifth of it on the other.
    """
    half = int(np.searchsorted(travelled, travelled[-1] / 2))
    best, most = None, 0.2 * len(truth)
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        along = sign * truth[:, axis]
        edge = along[:half].max() + MARGIN_M
        outside = along > edge + 5.0
        if outside.sum() > most:
            best, most = (axis, sign, edge), int(outside.sum())
    if best is None:
        return None
    axis, sign, edge = best
    part = cut(raster, axis, sign * edge, keep_below=sign > 0)
    last = int(np.flatnonzero(sign * truth[:, axis] > edge + 5.0)[0])
    last = int(np.searchsorted(travelled, min(travelled[last] + 60.0, travelled[-1])))
    there = np.arange(last)
    index = np.concatenate([there, there[::-1]])
    t_ns = drive.scans.t_ns
    step = np.diff(t_ns[:last], append=t_ns[last])
    times = t_ns[0] + np.cumsum(np.concatenate([[0], step, step[::-1][:-1]]))
    back = np.concatenate([travelled[:last], 2 * travelled[last - 1] - travelled[:last][::-1]])
    inside = part.inside(truth[index, :2], 0.0)
    over = int(np.flatnonzero(~inside)[-1]) + 1
    return Disturbed(made(drive, index, times, poses[index]), part, truth[index], back, over)


def cut(raster: MapRaster, axis: int, at: float, keep_below: bool) -> MapRaster:
    """The part of a map on one side of an east (axis 0) or north (axis 1) coordinate, metres."""
    row, column = (int(max(value, 0)) for value in raster.pixel_from_world([at, at]))
    top, left = 0, 0
    data = raster.data
    if axis == 0:
        left = 0 if keep_below else column
        data = data[:, :, :column] if keep_below else data[:, :, column:]
    else:
        top = row if keep_below else 0
        data = data[:, row:] if keep_below else data[:, :row]
    west, north = raster.west + left * raster.resolution, raster.north - top * raster.resolution
    return MapRaster(np.ascontiguousarray(data), west, north, raster.resolution, raster.crs)


def made(
    drive: Drive,
    index: NDArray[np.int64],
    t_ns: Times,
    poses: Array,
    blind: NDArray[np.bool_] | None = None,
) -> Drive:
    """A drive of chosen scans, with an odometry pose at each."""
    scans = ChosenScans(
        drive.scans, index, t_ns, np.zeros(len(index), bool) if blind is None else blind
    )
    track = PoseTrack(t_ns, poses, np.zeros(len(t_ns), np.int32))
    return Drive(drive.name, drive.format, scans, track, None, None)
