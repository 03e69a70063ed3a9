"""COLMAP model (sparse structure from motion): each registered image is a scan.

FOLDER, FOLDER/sparse/0 or FOLDER/sparse holds ``images`` and ``points3D`` as .bin (preferred, as by
COLMAP itself) or .txt; ``cameras`` are not needed. The layout is that of COLMAP's documentation
("Output Format") and of its source (scene/reconstruction_io_binary.cc); BSD-3-Clause.

A scan consists of the 3D points that an image observes. Its vehicle frame is the levelled camera
frame: the origin is the camera's centre, x its horizontal viewing direction, y left, z up. A model
does not contain the vertical, which is estimated from the cameras' upright attitude, nor a scale:
its unit is taken as a metre.

The time of an image is, in this order of preference and by one rule for all images of a drive:

1. the time since 1970 in its name, in microseconds or nanoseconds (1317384506407123.jpg,
   1317384506407123456.jpg; also with a point or _ after the seconds: 1305031102.175304.png);
2. the last number in its name, as a frame number, at ``FRAMES_PER_SECOND``;
3. its rank in the order of names, at the same rate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive, ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3
from data_prep.sources import Source
from data_prep.sources.formats.colmap_files import FILES, SUFFIXES, Model, read_model
from data_prep.sources.formats.common import relative_track, scan_block
from data_prep.sources.storage.tree import Node

FRAMES_PER_SECOND = 10
"""Frame rate, hertz, of images whose names contain no times."""

_SUBFOLDERS = ((), ("sparse", "0"), ("sparse",))
"""Paths, below a drive's folder, that may hold the model."""

_NO_FOLDER = "images"
"""Name of the sensor where the names of the images have no folder."""

_SINCE_1970 = re.compile(r"(?<!\d)(\d{10})[._]?(\d{9}|\d{6})(?!\d)", re.ASCII)
"""A time since 1970 in the name of an image."""

_NUMBER = re.compile(r"\d+", re.ASCII)
"""A number in the name of an image."""

_MAX_FRAME_NUMBER = 10**10
"""Larger numbers in names are not frame numbers."""

_MIN_STRAIGHTNESS = 0.95
"""Smallest median cosine between steps and their median direction for a vehicle-mounted camera."""

_MAX_PITCH_SINE = 0.5
"""Largest sine of the pitch of a vehicle-mounted camera."""

_VERTICAL_SINE = 0.995
"""A camera whose pitch has a larger sine looks straight up or down."""


@dataclass(frozen=True)
class ColmapScans:
    """The points that each image observes, sorted by time.

    Attributes:
        t_ns: (S,) time of each image.
        attitude: (S, 3, 3) level vehicle frame -> world.
        centre: (S, 3) origin of the vehicle frame in the world.
        observed: S arrays (n,) of int64, rows of ``points``.
        points: (P, 3) float64, in the world.
        sensors: The folder in the images' names.
    """

    t_ns: Times
    attitude: Array
    centre: Array
    observed: tuple[NDArray[np.int64], ...]
    points: Array
    sensors: tuple[str, ...]

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        seen = zip(
            self.observed[start:stop],
            self.centre[start:stop],
            self.attitude[start:stop],
            strict=True,
        )
        with np.errstate(invalid="ignore", over="ignore"):
            clouds = [(self.points[rows] - centre) @ attitude for rows, centre, attitude in seen]
        return scan_block(t_ns, clouds, np.eye(4)[None], np.zeros(len(t_ns), np.int8))


def is_colmap(path: Node) -> bool:
    """Return whether ``path`` is a COLMAP model, or has one in sparse/0 or sparse."""
    return _find(path) is not None


def open_colmap(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a COLMAP model.

    Args:
        path: The folder of the model, or the one above its sparse/0.
        sensors: One folder in the images' names; None: the one with most images.

    Raises:
        MaptileError: There is no model, its files are damaged or of two models, or it has no
            image in that folder.
    """
    found = _find(path)
    if found is None:
        raise MaptileError(f"{path}: no COLMAP model (images and points3D, as .bin or .txt)")
    folder, suffix = found
    notes: list[str] = []
    whole = read_model(folder, suffix)
    if whole.lacking:
        seen = whole.lacking + sum(len(rows) for rows in whole.observed)
        notes.append(
            f"{whole.lacking} of {seen} observations name points that are missing; left out"
        )
    model, sensor = _of_sensor(path, whole, sensors, notes)
    t_ns, rule = image_times(model.names)
    order = np.argsort(t_ns, kind="stable")
    t_ns, rotation, centre = t_ns[order], model.rotation[order], model.centre[order]
    up = upward(rotation, centre)
    if up is None:
        raise MaptileError(f"{folder}: its cameras have no common upright, so up is unknown")
    attitude = level_attitudes(rotation, up)
    to_level, _ = Rotation.align_vectors([[0, 0, 1]], up[None])
    world = se3(to_level * Rotation.from_matrix(attitude), to_level.apply(centre))
    track = relative_track(t_ns, world)
    lean = np.median(np.degrees(np.arccos(np.clip(rotation[:, 1] @ -up, -1, 1))))
    notes += [
        f"times: {rule}",
        "a model has no scale of its own: its unit is taken as a metre (see colmap model_aligner)",
        f"up is the median of the cameras' upward axes; they lean by {lean:.0f} degrees (median)",
    ]
    _note_other_models(path, folder, notes)
    observed = tuple(model.observed[i] for i in order)
    return Drive(
        name=path.resolve().name,
        format="colmap",
        scans=ColmapScans(t_ns, attitude, centre, observed, model.points, (sensor,)),
        # All poses are of one model, so that the motion over a gap is known too.
        odometry=replace(track, segment=np.zeros_like(track.segment)),
        heading=None,
        truth=None,
        notes=tuple(notes),
    )


SOURCE = Source(
    looked_for="COLMAP model (images and points3D, or those in sparse/0)",
    recognises=is_colmap,
    open=open_colmap,
    priority=80,
)


def _find(path: Node) -> tuple[Node, str] | None:
    """The folder and the suffix of the model in or below ``path``."""
    for parts in _SUBFOLDERS:
        folder = path
        for part in parts:
            folder = folder / part
        for suffix in SUFFIXES:
            if all((folder / f"{name}{suffix}").is_file() for name in FILES):
                return folder, suffix
    return None


def _note_other_models(path: Node, folder: Node, notes: list[str]) -> None:
    """Note the models beside sparse/0 that are not used."""
    if folder != path / "sparse" / "0":
        return
    others = sorted(n.name for n in folder.parent.iterdir() if n.name != "0" and is_colmap(n))
    if others:
        notes.append(f"of the models in sparse/, 0 is used, not {', '.join(others)}")


def _of_sensor(
    path: Node, model: Model, sensors: tuple[str, ...] | None, notes: list[str]
) -> tuple[Model, str]:
    """The images of one camera, which is a folder in their names, and that folder."""
    folders = [name.rpartition("/")[0] or _NO_FOLDER for name in model.names]
    counts = Counter(sorted(folders))
    if sensors is None:
        sensors = (counts.most_common(1)[0][0],)
    if len(sensors) != 1 or sensors[0] not in counts:
        raise MaptileError(
            f"{path}: choose one folder of images as the sensor: {', '.join(list(counts)[:5])}"
        )
    others = [name for name in counts if name != sensors[0]]
    if others:
        notes.append(f"the images of {sensors[0]} are used, not those of {', '.join(others[:5])}")
    keep = [i for i, folder in enumerate(folders) if folder == sensors[0]]
    return replace(
        model,
        names=tuple(model.names[i] for i in keep),
        rotation=model.rotation[keep],
        centre=model.centre[keep],
        observed=tuple(model.observed[i] for i in keep),
    ), sensors[0]


def image_times(names: Sequence[str]) -> tuple[Times, str]:
    """Return (N,) int64 nanoseconds of images by their names, and the rule used, in words."""
    files = [name.rpartition("/")[2] for name in names]
    stamps = [_SINCE_1970.search(file) for file in files]
    known = [int(stamp[1]) * 10**9 + int(stamp[2].ljust(9, "0")) for stamp in stamps if stamp]
    if len(known) == len(files) and max(known) < 2**63:
        return np.array(known, np.int64), "since 1970, from the images' names"
    numbers = [_NUMBER.findall(file.rpartition(".")[0] or file)[-1:] for file in files]
    frames = [int(number[0]) for number in numbers if number and len(number[0]) <= 18]
    rate = f"at {FRAMES_PER_SECOND} per second"
    if len(set(frames)) == len(files) and max(frames) < _MAX_FRAME_NUMBER:
        rule = f"frame numbers of the images' names, {rate}"
    else:
        frames = np.argsort(np.argsort(files, kind="stable"), kind="stable").tolist()
        rule = f"the order of the images' names, {rate}"
    return np.array(frames, np.int64) * (10**9 // FRAMES_PER_SECOND), rule


# --- the vertical --------------------------------------------------------------------------------


def upward(rotation: Array, centre: Array) -> Array | None:
    """Return the vertical of a model's world: the median of the cameras' upward axes.

    Where the cameras keep moving in one direction of their own frame, as on a vehicle, that
    direction is taken as horizontal first. A camera that looks down by a few degrees along a
    straight street then does not tilt the world.

    Args:
        rotation: (N, 3, 3) world -> camera (x right, y down, z forward), sorted by time.
        centre: (N, 3) position of the camera in the world.

    Returns:
        (3,) unit vector that points up; None where the upward axes have no common direction.
    """
    down = np.array([0.0, 1.0, 0.0])
    step = np.diff(centre, axis=0)
    length = np.linalg.norm(step, axis=1)
    moved = length > 0.5 * np.median(length) if len(length) else np.zeros(0, bool)
    if moved.any():
        halfway = rotation[:-1][moved] + rotation[1:][moved]
        travel = np.einsum("nij,nj->ni", halfway, step[moved])
        travel /= np.maximum(np.linalg.norm(travel, axis=1, keepdims=True), 1e-12)
        usual = _middle(travel)
        if usual is not None and _along(travel, usual):
            down = down - usual[1] * usual
            down /= np.linalg.norm(down)
    return _middle(-np.einsum("nji,j->ni", rotation, down))


def _along(travel: Array, usual: Array) -> bool:
    """Whether (N, 3) directions of travel keep to one that is not steep, as on a vehicle."""
    straight = np.median(travel @ usual) > _MIN_STRAIGHTNESS
    return bool(straight and abs(usual[1]) < _MAX_PITCH_SINE)


def _middle(directions: Array) -> Array | None:
    """(3,) geometric median of (N, 3) unit vectors, as a unit vector; None where it is near 0.

    It is computed by Weiszfeld's iteration. Unlike a median of each axis, it rotates with the
    vectors.
    """
    middle = directions.mean(axis=0)
    for _ in range(50):
        weight = 1.0 / np.maximum(np.linalg.norm(directions - middle, axis=1), 1e-6)
        middle = weight @ directions / weight.sum()
    length = np.linalg.norm(middle)
    return middle / length if length > 0.1 else None


def level_attitudes(rotation: Array, up: Array) -> Array:
    """Return the attitudes of the levelled cameras: x in the viewing direction, y left, z up.

    For a camera that looks straight down or up, the top or the bottom of its image is forward.

    Args:
        rotation: (N, 3, 3) world -> camera (x right, y down, z forward).
        up: (3,) unit vector in the world that points up.

    Returns:
        (N, 3, 3) vehicle frame -> world.
    """
    looks, down = rotation[:, 2], rotation[:, 1]
    sine = looks @ up
    ahead = np.where(np.abs(sine)[:, None] > _VERTICAL_SINE, np.sign(sine)[:, None] * down, looks)
    ahead = ahead - (ahead @ up)[:, None] * up
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    left = np.cross(up, ahead)
    return np.stack([ahead, left, np.broadcast_to(up, ahead.shape)], axis=2)
