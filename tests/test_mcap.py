"""MCAP files without a summary, in any arrangement of their records, cut short or damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bag import BagMaker
from reader_checks import arrays, check_same, damaged, fuzz, read
from test_rosbag import SCANS, STEP_NS, T0, cloud_of, make

from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.ros.mcap import CHANNEL, CHUNK, INDEX, MAGIC, MESSAGE, SCHEMA

HEADER, FOOTER, DATA_END = 1, 2, 15
Record = tuple[int, bytes]


def records(data: bytes) -> list[Record]:
    """Kinds and contents of the records."""
    found, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from("<BQ", data, at)
        found.append((kind, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def joined(parts: list[Record]) -> bytes:
    return b"".join(struct.pack("<BQ", kind, len(body)) + body for kind, body in parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a bag, written by rosbags."""
    folder = make(tmp_path_factory.mktemp("bag"), "mcap")
    return folder / "mcap.mcap"


def contents(whole: Path) -> list[Record]:
    """The schemas, channels and messages of a file, without chunks."""
    found = []
    for kind, body in records(whole.read_bytes()[8:-8]):
        if kind == CHUNK:
            (length,) = struct.unpack_from("<I", body, 28)
            packed = body[32 + length + 8 :]
            assert length == 0
            found += records(packed)
        elif kind in (SCHEMA, CHANNEL, MESSAGE):
            found.append((kind, body))
        elif kind == DATA_END:
            break
    assert sum(kind == MESSAGE for kind, _ in found) == 2 * SCANS + 2
    return found


def chunk(parts: list[Record], compression: str = "") -> Record:
    times = [struct.unpack_from("<HIQ", body)[2] for kind, body in parts if kind == MESSAGE]
    raw = joined(parts)
    packed = lz4.frame.compress(raw) if compression else raw
    head = struct.pack("<QQQI", min(times), max(times), len(raw), 0)
    name = compression.encode()
    return CHUNK, head + struct.pack("<I", len(name)) + name + struct.pack(
        "<Q", len(packed)
    ) + packed


def write(path: Path, parts: list[Record], profile: bytes = b"ros2") -> Path:
    head = struct.pack("<I", len(profile)) + profile + struct.pack("<I", 0)
    end = [(DATA_END, bytes(4)), (FOOTER, bytes(20))]
    path.write_bytes(MAGIC + joined([(HEADER, head), *parts, *end]) + MAGIC)
    return path


def arrangements(whole: Path) -> dict[str, list[Record]]:
    parts = contents(whole)
    messages = [one for one in parts if one[0] == MESSAGE]
    defined = [one for one in parts if one[0] != MESSAGE]
    index = [(INDEX, struct.pack("<HI", 1, 0))]
    backwards = [chunk([one]) for one in reversed(messages)]
    return {
        "no chunks": [*defined, *messages],
        "one chunk": [chunk([*defined, *messages])],
        "packed": [chunk([*defined, *messages], "lz4")],
        "definitions outside": [*defined, chunk(messages[:5]), chunk(messages[5:])],
        "definitions in the first": [chunk([*defined, *messages[:5]]), chunk(messages[5:])],
        "empty indexes": [*defined, chunk(messages[:5]), *index, chunk(messages[5:]), *index],
        "backwards": [*defined, *backwards],
        "interleaved": [*defined, chunk(messages[::2]), chunk(messages[1::2])],
    }


@pytest.mark.parametrize(
    "name",
    [
        *("no chunks", "one chunk", "packed", "definitions outside", "definitions in the first"),
        *("empty indexes", "backwards", "interleaved"),
    ],
)
def test_any_arrangement_of_the_records_is_the_same_drive(
    whole: Path, tmp_path: Path, name: str
) -> None:
    expected = open_drive(whole.parent)  # by rosbags, with its summary
    for profile in (b"ros2", b""):
        drive = open_drive(write(tmp_path / "drive.mcap", arrangements(whole)[name], profile))
        assert drive.notes == expected.notes
        check_same(arrays(expected), arrays(drive))


def test_a_recorder_that_was_stopped_leaves_what_it_wrote(whole: Path, tmp_path: Path) -> None:
    parts = contents(whole)
    file = write(tmp_path / "drive.mcap", parts)
    data = file.read_bytes()
    expected = open_drive(whole)
    for keep in (len(data) - 60, len(data) * 3 // 4, len(data) // 2):
        file.write_bytes(data[:keep])
        drive = open_drive(file)
        assert drive.notes[0] == "the recorder was stopped halfway: what it wrote is used"
        count = len(drive.scans.t_ns)
        assert 1 < count <= SCANS
        np.testing.assert_array_equal(
            drive.scans.read(0, count).points, expected.scans.read(0, count).points
        )


def test_a_chunk_larger_than_it_states_is_not_unpacked(whole: Path, tmp_path: Path) -> None:
    kind, body = chunk(contents(whole), "lz4")
    for size in (10, 1 << 60):
        lying = body[:16] + struct.pack("<Q", size) + body[24:]
        with pytest.raises(MaptileError, match="not readable as a bag: a chunk"):
            open_drive(write(tmp_path / "drive.mcap", [(kind, lying)]))


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap"])
def test_a_first_cloud_without_points_costs_no_times(tmp_path: Path, kind: str) -> None:
    with BagMaker(tmp_path, kind) as bag:
        for scan in range(SCANS):
            table = cloud_of(scan, "velodyne")[0]
            bag.cloud(
                "/points", T0 + scan * STEP_NS, "lidar", table[: len(table) if scan > 1 else 0]
            )
    drive = open_drive(bag.path)
    assert "/points: times of points: time in s since the scan" in drive.notes
    block = drive.scans.read(0, SCANS)
    assert set(block.scan.tolist()) == {2, 3, 4, 5}
    np.testing.assert_allclose(
        block.seconds[block.scan == 3], cloud_of(3, "velodyne")[2], atol=1e-7
    )


@fuzz(150)
@given(name=st.sampled_from(["no chunks", "packed", "definitions outside"]), choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(
    whole: Path, tmp_path: Path, name: str, choices: st.DataObject
) -> None:
    file = write(tmp_path / "drive.mcap", arrangements(whole)[name])
    file.write_bytes(choices.draw(damaged(file.read_bytes())))
    read(file, within=file)
