"""A COLMAP model (sparse structure from motion) as a drive: each registered image is a scan.

FOLDER, FOLDER/sparse/0 or FOLDER/sparse holds ``images`` and ``points3D`` as .bin (preferred, as by
COLMAP itself) or .txt; ``cameras`` are not needed. The layout is that of COLMAP's documentation
("Output Format") and of its source (scene/reconstruction_io_binary.cc); BSD-3-Clause.

A scan is the 3D points that an image observes. Its vehicle frame is the camera's, made level: the
origin is the camera's centre, x where the camera looks, y left, z up. Nothing in a model says where
up is, so it is taken from the cameras: they stand upright. A model has no scale of its own either;
its unit is taken for a metre.

The time of an image is, in this order, and for all of a drive's images alike:

1. its name's time since 1970, in microseconds or nanoseconds (1317384506407123.jpg,
   1317384506407123456.jpg; a point or _ after the seconds will do: 1305031102.175304.png);
2. its name's last number, as the number of a frame, ``FRAMES_PER_SECOND`` of them to a second;
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
from data_prep.sources.formats.colmap_files import FILES, SUFFIXES, Model, read_model
from data_prep.sources.formats.common import relative_track, scan_block
from data_prep.sources.storage.tree import Node

FRAMES_PER_SECOND = 10
"""The rate at which frames follow where the images' names hold no times."""

_PLACES = ((), ("sparse", "0"), ("sparse",))
_NO_FOLDER = "images"
"""The sensor's name where the images' names have no folder."""

_SINCE_1970 = re.compile(r"(?<!\d)(\d{10})[._]?(\d{9}|\d{6})(?!\d)", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)
_MAX_FRAME_NUMBER = 10**10


@dataclass(frozen=True)
class ColmapScans:
    """The points that each image observes, in the order of time.

    Attributes:
        t_ns: (S,) time of each image.
        attitude: (S, 3, 3) level vehicle frame -> world.
        centre: (S, 3) its origin in the world.
        observed: S arrays (n,) of int64, rows of ``points``.
        points: (P, 3) float64, in the world.
        sensors: The folder of the images' names.
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
    """Whether ``path`` is a COLMAP model, or has one in sparse/0 or sparse."""
    return _find(path) is not None


def open_colmap(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a COLMAP model.

    Args:
        path: The folder of the model, or the one above its sparse/0.
        sensors: One folder of the images' names; None: the one with most images.

    Raises:
        MaptileError: There is no model, its files are damaged or of two models, or it has no
            image of that folder.
    """
    found = _find(path)
    if found is None:
        raise MaptileError(f"{path}: no COLMAP model (images and points3D, as .bin or .txt)")
    folder, suffix = found
    notes: list[str] = []
    model, sensor = _of_sensor(path, read_model(folder, suffix), sensors, notes)
    t_ns, rule = image_times(model.names)
    order = np.argsort(t_ns, kind="stable")
    t_ns, rotation, centre = t_ns[order], model.rotation[order], model.centre[order]
    up = upward(rotation, centre)
    if up is None:
        raise MaptileError(f"{folder}: its cameras point all ways, so where up is is not known")
    attitude = level_attitudes(rotation, up)
    to_level, _ = Rotation.align_vectors([[0, 0, 1]], up[None])
    world = se3(to_level * Rotation.from_matrix(attitude), to_level.apply(centre))
    track = relative_track(t_ns, world)
    lean = np.median(np.degrees(np.arccos(np.clip(rotation[:, 1] @ -up, -1, 1))))
    notes += [
        f"times: {rule}",
        "a model has no scale of its own: its unit is taken for a metre (see colmap model_aligner)",
        f"up is where the cameras' tops point; they lean by {lean:.0f} degrees (median)",
    ]
    if folder == path / "sparse" / "0":
        beside = sorted(n.name for n in folder.parent.iterdir() if n.name != "0" and is_colmap(n))
        if beside:
            notes.append(f"of the models in sparse/ 0 is used; there are also {', '.join(beside)}")
    return Drive(
        name=path.resolve().name,
        format="colmap",
        scans=ColmapScans(
            t_ns,
            attitude,
            centre,
            tuple(model.observed[i] for i in order),
            model.points,
            (sensor,),
        ),
        # All poses are of one model, so that the motion over a gap is known as well.
        odometry=replace(track, segment=np.zeros_like(track.segment)),
        heading=None,
        truth=None,
        notes=tuple(notes),
    )


def _find(path: Node) -> tuple[Node, str] | None:
    """The folder and the suffix of the model in or below ``path``."""
    for parts in _PLACES:
        folder = path
        for part in parts:
            folder = folder / part
        for suffix in SUFFIXES:
            if all((folder / f"{name}{suffix}").is_file() for name in FILES):
                return folder, suffix
    return None


def _of_sensor(
    path: Node, model: Model, sensors: tuple[str, ...] | None, notes: list[str]
) -> tuple[Model, str]:
    """The images of one camera: those whose names have one folder."""
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
        notes.append(f"the images of {sensors[0]} are used; there are also {', '.join(others[:5])}")
    keep = [i for i, folder in enumerate(folders) if folder == sensors[0]]
    return replace(
        model,
        names=tuple(model.names[i] for i in keep),
        rotation=model.rotation[keep],
        centre=model.centre[keep],
        observed=tuple(model.observed[i] for i in keep),
    ), sensors[0]


def image_times(names: Sequence[str]) -> tuple[Times, str]:
    """(N,) nanoseconds of images by their names, and the rule that gave them, for people."""
    files = [name.rpartition("/")[2] for name in names]
    stamps = [_SINCE_1970.search(file) for file in files]
    known = [int(stamp[1]) * 10**9 + int(stamp[2].ljust(9, "0")) for stamp in stamps if stamp]
    if len(known) == len(files) and max(known) < 2**63:
        return np.array(known, np.int64), "since 1970, from the images' names"
    numbers = [_NUMBER.findall(file.rpartition(".")[0] or file)[-1:] for file in files]
    frames = [int(number[0]) for number in numbers if number and len(number[0]) <= 18]
    rate = f"taken at {FRAMES_PER_SECOND} a second"
    if len(set(frames)) == len(files) and max(frames) < _MAX_FRAME_NUMBER:
        rule = f"frame numbers of the images' names, {rate}"
    else:
        frames = np.argsort(np.argsort(files, kind="stable"), kind="stable").tolist()
        rule = f"the order of the images' names, {rate}"
    return np.array(frames, np.int64) * (10**9 // FRAMES_PER_SECOND), rule


# --- which way is up -----------------------------------------------------------------------------


def upward(rotation: Array, centre: Array) -> Array | None:
    """(3,) unit vector that points up in the world of a model; None where nothing tells.

    The median of the cameras' upward axes. Where the cameras travel in one direction of theirs (on
    a vehicle), that direction is level first: so a camera that looks down by a few degrees, all
    along a straight street, does not tilt the world.

    Args:
        rotation: (N, 3, 3) world -> camera (x right, y down, z forward), in the order of time.
        centre: (N, 3) where the camera is in the world.
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
        if usual is not None and np.median(travel @ usual) > 0.95 and abs(usual[1]) < 0.5:
            down = down - usual[1] * usual
            down /= np.linalg.norm(down)
    return _middle(-np.einsum("nji,j->ni", rotation, down))


def _middle(directions: Array) -> Array | None:
    """(3,) geometric median of (N, 3) unit vectors, as a unit vector; None where there is none.

    By Weiszfeld's iteration: unlike a median of each axis it turns with the vectors.
    """
    middle = directions.mean(axis=0)
    for _ in range(50):
        weight = 1.0 / np.maximum(np.linalg.norm(directions - middle, axis=1), 1e-6)
        middle = weight @ directions / weight.sum()
    length = np.linalg.norm(middle)
    return middle / length if length > 0.1 else None


def level_attitudes(rotation: Array, up: Array) -> Array:
    """(N, 3, 3) vehicle frame (x where the camera looks, y left, z up) -> world.

    A camera that looks straight down or up looks to where its picture's top or bottom is.

    Args:
        rotation: (N, 3, 3) world -> camera (x right, y down, z forward).
        up: (3,) unit vector in the world.
    """
    looks, down = rotation[:, 2], rotation[:, 1]
    sine = looks @ up
    ahead = np.where(np.abs(sine)[:, None] > 0.995, np.sign(sine)[:, None] * down, looks)
    ahead = ahead - (ahead @ up)[:, None] * up
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    left = np.cross(up, ahead)
    return np.stack([ahead, left, np.broadcast_to(up, ahead.shape)], axis=2)
