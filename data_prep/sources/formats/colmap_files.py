"""The files of a COLMAP model, images and points3D, with every size checked against the file.

The layout is that of COLMAP's documentation ("Output Format") and of its source
(scene/reconstruction_io_binary.cc; BSD-3-Clause). Numbers of images, cameras and points are names,
in no order and with gaps.
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
from data_prep.sources.storage.tree import Node

FILES = ("images", "points3D")
SUFFIXES = (".bin", ".txt")
"""The first that is there counts, as in COLMAP itself."""

T = TypeVar("T")
Numbers = NDArray[np.int64]
Images = tuple[list[str], list[tuple[float, ...]], list[Numbers]]
"""Names; quaternions w x y z and translations, world -> camera; numbers of the points observed."""

_COUNT = struct.Struct("<Q")
_IMAGE = struct.Struct("<I7dI")  # its number, quaternion w x y z, translation, camera
_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_POINT = np.dtype([("number", "<i8"), ("xyz", "<f8", 3)])  # then colour and error
_TRACK_LENGTH_AT = 43
_TRACK_AT = 51
_TRACK_ITEM_BYTES = 8
_MAX_NAME_BYTES = 4096
_MAX_COORDINATE = 1e8
"""Metres; a camera's place on Earth is within a tenth of it of the Earth's centre."""

_DAMAGE = (OSError, ValueError, IndexError, OverflowError, struct.error)


@dataclass(frozen=True)
class Model:
    """A COLMAP model, as far as it is used here.

    Attributes:
        names: S image names, relative to the folder of images.
        rotation: (S, 3, 3) world -> camera (x right, y down, z forward).
        centre: (S, 3) where the camera is in the world.
        observed: S arrays (n,) of int64, rows of ``points`` that the image observes.
        points: (P, 3) float64, in the world.
    """

    names: tuple[str, ...]
    rotation: Array
    centre: Array
    observed: tuple[Numbers, ...]
    points: Array


def read_model(folder: Node, suffix: str) -> Model:
    """Read images and points3D in ``folder``, both ``suffix`` (".bin" or ".txt").

    Raises:
        MaptileError: A file is missing, cut short or not of its format, has no image, or the two
            are of different models.
    """
    binary = suffix == ".bin"
    images, points3d = (folder / f"{name}{suffix}" for name in FILES)
    names, rows, seen = _read(images, _images_of_bytes if binary else _images_of_text)
    numbers, points = _read(points3d, _points_of_bytes if binary else _points_of_text)
    if not names:
        raise MaptileError(f"{images}: no image in it; COLMAP placed none")
    poses = np.array(rows, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(poses[:, :4], axis=1)
        sound = (np.abs(length - 1) < 0.01) & (np.abs(poses[:, 4:]) < _MAX_COORDINATE).all(axis=1)
    if not sound.all():
        raise MaptileError(f"{images}: {np.sum(~sound)} poses are none; the file is damaged")
    order = np.argsort(numbers, kind="stable")
    numbers, points = numbers[order], points[order]
    if (np.diff(numbers) == 0).any():
        raise MaptileError(f"{points3d}: two points have one number; the file is damaged")
    wanted = np.concatenate(seen)
    found = np.searchsorted(numbers, wanted)
    lacking = np.append(numbers, -1)[found] != wanted
    if lacking.any():
        raise MaptileError(
            f"{images}: {np.sum(lacking)} of the points it names are not in {points3d.name}; "
            "copy both files of one model"
        )
    rotation = Rotation.from_quat(poses[:, [1, 2, 3, 0]]).as_matrix()
    return Model(
        names=tuple(names),
        rotation=rotation,
        centre=-np.einsum("nji,nj->ni", rotation, poses[:, 4:]),
        observed=tuple(np.split(found, np.cumsum([len(some) for some in seen])[:-1])),
        points=points,
    )


def _read(file: Node, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(file.read_bytes())
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
    # Where a point begins depends on every track before it; only this is a loop.
    length_at = _COUNT.unpack_from
    starts, at = [], _COUNT.size
    for _ in range(_fitting(data, _TRACK_AT)):
        starts.append(at)
        at += _TRACK_AT + _TRACK_ITEM_BYTES * length_at(data, at + _TRACK_LENGTH_AT)[0]
    _at_end(data, at)
    if not starts:
        return np.zeros(0, np.int64), np.zeros((0, 3))
    # A point at every byte, of which those at ``starts`` are some.
    overlapping = np.ndarray(len(data) - _POINT.itemsize + 1, _POINT, data, strides=(1,))
    rows = overlapping[starts]
    return rows["number"].astype(np.int64), rows["xyz"].astype(np.float64)


def _fitting(data: bytes, least: int) -> int:
    """How many records of at least ``least`` bytes the file says that it holds."""
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
        keypoints = next(lines, b"").split()  # of an image without any, an empty line
        if len(keypoints) % 3:
            raise ValueError(f"the keypoints of {names[-1]} are not in threes")
        seen.append(_observed(np.array(keypoints[2::3], "S").astype(np.int64)))
    _as_many(data, b"# Number of images: ", len(names))
    return names, poses, seen


def _points_of_text(data: bytes) -> tuple[Numbers, Array]:
    words = [line.split(maxsplit=8) for line in _lines(data) if line[:1] not in (b"#", b"")]
    if any(len(row) < 8 for row in words):
        raise ValueError("a line has fewer than eight numbers")
    _as_many(data, b"# Number of points: ", len(words))
    numbers = np.array([row[0] for row in words], "S").astype(np.int64)
    return numbers, np.array([row[1:4] for row in words], "S").astype(np.float64).reshape(-1, 3)


def _lines(data: bytes) -> list[bytes]:
    if data and not data.endswith(b"\n"):
        raise ValueError("its last line has no end: cut short")
    return data.split(b"\n")


def _as_many(data: bytes, says: bytes, count: int) -> None:
    """Check the comment that tells how many records follow, where there is one."""
    _, found, rest = data[:4096].partition(says)
    said = rest.split(b"\n")[0].partition(b",")[0]
    if found and int(said) != count:
        raise ValueError(f"{count} records where its head names {int(said)}: cut short")


def _name(data: bytes) -> str:
    name = data.decode("utf-8", "replace")
    if not name.isprintable():
        raise ValueError("an image's name is no text")
    return name


def _observed(numbers: Numbers) -> Numbers:
    """Sorted numbers of the points that an image's keypoints observe; -1 observes none."""
    return np.unique(numbers[numbers >= 0])
