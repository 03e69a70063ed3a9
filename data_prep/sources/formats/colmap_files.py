"""The files of a COLMAP model, images and points3D, with every size checked against the file.

The layout is that of COLMAP's documentation ("Output Format") and of its source
(scene/reconstruction_io_binary.cc; BSD-3-Clause). Numbers of images, cameras and points are
identifiers, unsorted and with gaps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.sources.storage.tree import Node, read_node

FILES = ("images", "points3D")
"""Names, without suffix, of the files that are read."""

SUFFIXES = (".bin", ".txt")
"""Suffixes of the files; the first that exists is used, as in COLMAP itself."""

T = TypeVar("T")

Numbers = NDArray[np.int64]
"""Identifiers of points."""

Images = tuple[list[str], list[tuple[float, ...]], list[Numbers]]
"""Of each image: name; quaternion w x y z and translation, world -> camera; points observed."""

_COUNT = struct.Struct("<Q")
"""Number of records that follow."""

_IMAGE = struct.Struct("<I7dI")
"""Head of an image: identifier, quaternion w x y z, translation, camera."""

_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
"""Keypoint of an image; a point of -1 stands for none."""

_POINT = np.dtype([("number", "<i8"), ("xyz", "<f8", 3)])
"""Begin of a point; colour, error and track follow."""

_TRACK_LENGTH_AT = 43
"""Offset of the length of a point's track, bytes."""

_TRACK_AT = 51
"""Offset of a point's track, bytes."""

_TRACK_ITEM_BYTES = 8
"""Size of an item of a track: image and keypoint."""

_MAX_NAME_BYTES = 4096
"""Longest name of an image."""

_MAX_COORDINATE = 1e8
"""Largest translation, metres: ten times the largest geocentric coordinate on Earth."""

_DAMAGE = (OSError, ValueError, IndexError, OverflowError, struct.error)
"""Exceptions that damage in a file causes."""


@dataclass(frozen=True)
class Model:
    """The parts of a COLMAP model that are used.

    Attributes:
        names: S image names, relative to the folder of images.
        rotation: (S, 3, 3) world -> camera (x right, y down, z forward).
        centre: (S, 3) position of the camera in the world.
        observed: S arrays (n,) of int64, rows of ``points`` that the image observes.
        points: (P, 3) float64, in the world.
        lacking: Number of observations whose point is not in the model.
    """

    names: tuple[str, ...]
    rotation: Array
    centre: Array
    observed: tuple[Numbers, ...]
    points: Array
    lacking: int = 0


def read_model(folder: Node, suffix: str) -> Model:
    """Read images and points3D in ``folder``, both ``suffix`` (".bin" or ".txt").

    Raises:
        MaptileError: A file is missing, cut short or not of its format, there is no image, or none
            of the points that the images observe is in the model.
    """
    binary = suffix == ".bin"
    images, points3d = (folder / f"{name}{suffix}" for name in FILES)
    names, rows, seen = _read(images, _images_of_bytes if binary else _images_of_text)
    numbers, points = _read(points3d, _points_of_bytes if binary else _points_of_text)
    if not names:
        raise MaptileError(f"{images}: no image in it; COLMAP registered none")
    poses = np.array(rows, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(poses[:, :4], axis=1)
        sound = (np.abs(length - 1) < 0.01) & (np.abs(poses[:, 4:]) < _MAX_COORDINATE).all(axis=1)
    if not sound.all():
        raise MaptileError(f"{images}: {np.sum(~sound)} poses are invalid; the file is damaged")
    order = np.argsort(numbers, kind="stable")
    numbers, points = numbers[order], points[order]
    if (np.diff(numbers) == 0).any():
        raise MaptileError(f"{points3d}: two points have the same number; the file is damaged")
    wanted = np.concatenate(seen)
    found = np.searchsorted(numbers, wanted)
    lacking = np.append(numbers, -1)[found] != wanted
    if len(wanted) and lacking.all():
        raise MaptileError(
            f"{images}: the points it names are not in {points3d.name}; copy both files from the "
            "same model"
        )
    ends = np.cumsum([len(some) for some in seen])
    pieces = zip(np.split(found, ends[:-1]), np.split(lacking, ends[:-1]), strict=True)
    rotation = Rotation.from_quat(poses[:, [1, 2, 3, 0]]).as_matrix()
    return Model(
        names=tuple(names),
        rotation=rotation,
        centre=-np.einsum("nji,nj->ni", rotation, poses[:, 4:]),
        observed=tuple(rows[~absent] for rows, absent in pieces),
        points=points,
        lacking=int(lacking.sum()),
    )


def _read(file: Node, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(read_node(file))
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaptileError(f"{file}: not readable as COLMAP's ({reason}); copy it again") from None


def _images_of_bytes(data: bytes) -> Images:
    names: list[str] = []
    poses: list[tuple[float, ...]] = []
    seen: list[Numbers] = []
    at = _COUNT.size
    for _ in range(_fitting(data, _IMAGE.size + 1 + _COUNT.size)):
        poses.append(_IMAGE.unpack_from(data, at)[1:8])
        at += _IMAGE.size
        end = data.index(b"\0", at, at + _MAX_NAME_BYTES)
        names.append(_name(data[at:end]))
        (count,) = _COUNT.unpack_from(data, end + 1)
        at = end + 1 + _COUNT.size
        if count > (len(data) - at) // _KEYPOINT.itemsize:
            raise ValueError("cut short")
        seen.append(_observed(np.frombuffer(data, _KEYPOINT, count, at)["point"]))
        at += count * _KEYPOINT.itemsize
    _at_end(data, at)
    return names, poses, seen


def _points_of_bytes(data: bytes) -> tuple[Numbers, Array]:
    # The offset of a point depends on all tracks before it, so that only offsets need a loop.
    length_at = _COUNT.unpack_from
    starts, at = [], _COUNT.size
    for _ in range(_fitting(data, _TRACK_AT)):
        starts.append(at)
        at += _TRACK_AT + _TRACK_ITEM_BYTES * length_at(data, at + _TRACK_LENGTH_AT)[0]
    _at_end(data, at)
    if not starts:
        return np.zeros(0, np.int64), np.zeros((0, 3))
    # A view with a point at every byte, from which those at ``starts`` are selected.
    overlapping = np.ndarray(len(data) - _POINT.itemsize + 1, _POINT, data, strides=(1,))
    rows = overlapping[starts]
    return rows["number"].astype(np.int64), rows["xyz"].astype(np.float64)


def _fitting(data: bytes, least: int) -> int:
    """Return the number of records that ``data`` declares.

    Raises:
        ValueError: That many records of at least ``least`` bytes do not fit into ``data``.
    """
    (count,) = _COUNT.unpack_from(data)
    if count > (len(data) - _COUNT.size) // least:
        raise ValueError(f"{count} records do not fit into {len(data)} bytes: cut short")
    return int(count)


def _at_end(data: bytes, at: int) -> None:
    if at != len(data):
        raise ValueError(f"its records take {at} bytes, the file has {len(data)}")


def _images_of_text(data: bytes) -> Images:
    names: list[str] = []
    poses: list[tuple[float, ...]] = []
    seen: list[Numbers] = []
    lines = iter(_lines(data))
    for line in lines:
        if not line.strip() or line.startswith(b"#"):
            continue
        words = line.split(maxsplit=9)
        poses.append(tuple(float(word) for word in words[1:8]))
        names.append(_name(words[9].strip()))
        keypoints = next(lines, b"").split()  # an empty line for an image without keypoints
        if len(keypoints) % 3:
            raise ValueError(f"the keypoints of {names[-1]} are not triples")
        seen.append(_observed(np.array(keypoints[2::3], "S").astype(np.int64)))
    _check_count(data, b"# Number of images: ", len(names))
    return names, poses, seen


def _points_of_text(data: bytes) -> tuple[Numbers, Array]:
    words = [line.split(maxsplit=8) for line in _lines(data) if line[:1] not in (b"#", b"")]
    if any(len(row) < 8 for row in words):
        raise ValueError("a line has fewer than eight numbers")
    _check_count(data, b"# Number of points: ", len(words))
    numbers = np.array([row[0] for row in words], "S").astype(np.int64)
    return numbers, np.array([row[1:4] for row in words], "S").astype(np.float64).reshape(-1, 3)


def _lines(data: bytes) -> list[bytes]:
    if data and not data.endswith(b"\n"):
        raise ValueError("its last line has no end: cut short")
    return data.split(b"\n")


def _check_count(data: bytes, comment: bytes, count: int) -> None:
    """Compare the number of records with the one in a comment, where there is such a comment."""
    _, found, rest = data[:4096].partition(comment)
    declared = rest.split(b"\n")[0].partition(b",")[0]
    if found and int(declared) != count:
        raise ValueError(f"{count} records where its head names {int(declared)}: cut short")


def _name(data: bytes) -> str:
    name = data.decode("utf-8", "replace")
    if not name.isprintable():
        raise ValueError("an image's name is not text")
    return name


def _observed(numbers: Numbers) -> Numbers:
    """Sorted numbers of the points that an image's keypoints observe."""
    return np.unique(numbers[numbers >= 0])
