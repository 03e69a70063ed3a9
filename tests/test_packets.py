"""Recordings of raw packets: Velodyne's and Ouster's, in .pcap files and bags, and .e57 files."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bag import STORE1, STORE2, BagMaker
from reader_checks import damaged, fuzz, read
from rosbags.typesys import get_types_from_msg

from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.packets.spool import Decoded, spooled

T0_NS = 1_700_000_000_000_000_000
ELEVATIONS = (-15, 1, -13, 3, -11, 5, -9, 7, -7, 9, -5, 11, -3, 13, -1, 15)
"""Degrees of the lasers of a VLP-16 in the order of firing (its manual, chapter 9)."""
PACKET, SCAN = "velodyne_msgs/msg/VelodynePacket", "velodyne_msgs/msg/VelodyneScan"


def vlp16_packet(first_deg: float, distance_m: float, microseconds: int) -> bytes:
    """A data packet of a VLP-16 that sees a sphere (its manual, chapter 9)."""
    raw = round(distance_m / 0.002)
    blocks = []
    for block in range(12):
        azimuth = round((first_deg + 0.4 * block) % 360 * 100)
        blocks.append(struct.pack("<2sH", b"\xff\xee", azimuth) + struct.pack("<HB", raw, 9) * 32)
    return b"".join(blocks) + struct.pack("<IBB", microseconds, 0x37, 0x22)


def turns(count: int) -> list[tuple[int, bytes]]:
    """Times and packets of some turns, ten a second, 75 packets each."""
    found = []
    for k in range(75 * count):
        t_ns = T0_NS + k * 100_000_000 // 75
        hour_us = t_ns // 1000 % 3_600_000_000
        found.append((t_ns, vlp16_packet(4.8 * k, 20.0, hour_us)))
    return found


def write_pcap(path: Path, packets: list[tuple[int, bytes]], order: str = "<") -> Path:
    head = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    parts = [head]
    for t_ns, data in packets:
        udp = struct.pack(">HHHH", 2368, 2368, 8 + len(data), 0) + data
        ip = struct.pack(">BBHHHBBH4s4s", 69, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4))
        frame = bytes(12) + b"\x08\0" + ip + udp
        parts.append(
            struct.pack(
                f"{order}IIII",
                t_ns // 10**9,
                t_ns % 10**9 // 1000,
                len(frame),
                len(frame),
            )
        )
        parts.append(frame)
    path.write_bytes(b"".join(parts))
    return path


def check_sphere(drive: object) -> None:
    """Every point lies 20 m from the sensor, at the elevation of a laser, on a ten-hertz turn."""
    scans = drive.scans  # type: ignore[attr-defined]
    assert np.allclose(np.diff(scans.t_ns), 100_000_000, atol=3_000_000)
    block = scans.read(0, len(scans.t_ns))
    points = block.points.astype(np.float64)
    length = np.linalg.norm(points, axis=1)
    assert np.allclose(length, 20.0, atol=0.02)
    elevation = np.degrees(np.arcsin(points[:, 2] / length))
    assert np.abs(elevation[:, None] - np.array(ELEVATIONS)).min(axis=1).max() < 0.2
    assert block.seconds is not None
    assert np.ptp(block.seconds) < 0.11
    # Seen from above, the sensor turns clockwise.
    one = block.scan == 1
    order = np.argsort(block.seconds[one], kind="stable")
    azimuth = np.unwrap(np.arctan2(points[one, 1], points[one, 0])[order])
    assert azimuth[-1] - azimuth[0] < -5


def test_a_pcap_of_a_velodyne(tmp_path: Path) -> None:
    pytest.importorskip("velodyne_decoder")
    drive = open_drive(write_pcap(tmp_path / "drive.pcap", turns(4)))
    assert (drive.format, drive.scans.sensors) == ("pcap", ("velodyne",))
    check_sphere(drive)
    assert drive.odometry is None


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap"])
def test_a_bag_of_velodyne_packets(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("velodyne_decoder")
    definitions = {PACKET: "time stamp\nuint8[1206] data"}
    definitions[SCAN] = "std_msgs/Header header\nvelodyne_msgs/VelodynePacket[] packets"
    for store in (STORE1, STORE2):
        for name, text in definitions.items():
            if name not in store.fielddefs:
                store.register(get_types_from_msg(text, name))
    packets = turns(4)
    with BagMaker(tmp_path, kind) as bag:
        time = bag.types["builtin_interfaces/msg/Time"]
        for first in range(0, len(packets), 75):
            part = [
                bag.types[PACKET](
                    time(sec=t_ns // 10**9, nanosec=t_ns % 10**9), np.frombuffer(data, np.uint8)
                )
                for t_ns, data in packets[first : first + 75]
            ]
            t_ns = packets[first][0]
            bag.write("/packets", SCAN, t_ns, bag.types[SCAN](bag.header(t_ns, "velodyne"), part))
    drive = open_drive(bag.path)
    assert drive.format == "rosbag"
    assert any("raw packets, decoded" in note for note in drive.notes)
    check_sphere(drive)


@pytest.mark.parametrize("order", ["<", ">"])
def test_without_the_decoder_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setitem(sys.modules, "velodyne_decoder", None)
    path = write_pcap(tmp_path / "drive.pcap", turns(1), order)
    with pytest.raises(MaptileError, match=r"pip install 'maptile-loc\[velodyne\]'$"):
        open_drive(path)
    monkeypatch.setitem(sys.modules, "ouster.sdk", None)
    path = write_pcap(tmp_path / "ouster.pcap", [(T0_NS, bytes(6464))])
    with pytest.raises(MaptileError, match=r"put the sensor's metadata \(ouster\.json\) beside it"):
        open_drive(path)
    (tmp_path / "other.json").write_text('{"beam_altitude_angles": []}')
    with pytest.raises(MaptileError, match=r"pip install --no-deps ouster-sdk$"):
        open_drive(path)
    monkeypatch.setitem(sys.modules, "pye57", None)
    (tmp_path / "cloud.e57").write_bytes(b"ASTM-E57")
    with pytest.raises(MaptileError, match=r"cloud\.e57: .*pip install 'maptile-loc\[e57\]'$"):
        open_drive(tmp_path / "cloud.e57")


def test_what_is_no_recording_of_points_is_one_line(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "positions.pcap", [(T0_NS, bytes(512))])
    with pytest.raises(MaptileError, match="a Velodyne's positions only"):
        open_drive(path)
    (tmp_path / "x.pcap").write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(40))
    with pytest.raises(MaptileError, match=r"a \.pcapng by: editcap"):
        open_drive(tmp_path / "x.pcap")
    with pytest.raises(MaptileError, match="no packet with points"):
        spooled(tmp_path, [Decoded(1, np.zeros((0, 3)), np.zeros(0))], "x", np.eye(4))

    def broken() -> object:
        yield Decoded(1, np.ones((1, 3)), np.zeros(1))
        raise RuntimeError("bad\nblock")

    with pytest.raises(MaptileError, match=r"cannot be decoded: bad block$"):
        spooled(tmp_path, broken(), "x", np.eye(4))  # type: ignore[arg-type]


def test_spooled_scans_are_those_that_were_decoded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scans = [
        Decoded(t, rng.normal(size=(n, 3)), rng.random(n)) for t, n in ((5, 9), (3, 0), (4, 7))
    ]
    found = spooled(tmp_path, scans, "x", np.eye(4))
    assert found.t_ns.tolist() == [3, 4, 5]
    block = found.read(1, 3)
    np.testing.assert_array_equal(
        block.points, np.concatenate([scans[2].xyz, scans[0].xyz]).astype(np.float32)
    )
    assert block.scan.tolist() == [0] * 7 + [1] * 9


@pytest.mark.realdata
@pytest.mark.filterwarnings(  # the SDK of Ouster leaves files open
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_real_recordings(data_dir: Path) -> None:
    pytest.importorskip("ouster.sdk")
    pytest.importorskip("velodyne_decoder")
    counts = {}
    for file in sorted((data_dir / "formats" / "ouster").glob("*.pcap")):
        drive = open_drive(file)
        block = drive.scans.read(0, 1)
        counts[file.name[:8]] = len(block.points)
        assert block.seconds is not None
        assert 0.001 < np.ptp(block.seconds) < 0.11
    assert counts == {"OS-0-32-": 21631, "OS-1-128": 16373, "OS-2-32-": 28541}
    bag = open_drive(data_dir / "formats" / "ouster" / "512x10_raw.bag")
    assert len(bag.scans.read(0, 1).points) > 20_000
    assert len(open_drive(data_dir / "formats/velodyne/single.pcap").scans.read(0, 1).points) == 260
    with pytest.raises(MaptileError, match="positions only"):
        open_drive(data_dir / "formats/velodyne/position.pcap")


@fuzz(60)
@given(choices=st.data())
def test_damaged_packets_are_an_error_or_a_sound_drive(
    tmp_path: Path, choices: st.DataObject
) -> None:
    pytest.importorskip("velodyne_decoder")
    path = write_pcap(tmp_path / "drive.pcap", turns(1))
    path.write_bytes(choices.draw(damaged(path.read_bytes())))
    read(path, within=path)


def write_e57(path: Path, points: np.ndarray) -> Path:
    pye57 = pytest.importorskip("pye57")
    file = pye57.E57(str(path), mode="w")
    table = {f"cartesian{axis}": points[:, k].copy() for k, axis in enumerate("XYZ")}
    file.write_scan_raw(table, rotation=np.array([1.0, 0, 0, 0]), translation=np.array([5e5, 0, 0]))
    file.close()
    return path


def test_e57_files_are_in_the_frame_of_their_scanner(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform(-30, 30, (500, 3))
    path = write_e57(tmp_path / "a.e57", points)
    np.testing.assert_allclose(open_drive(path).scans.read(0, 1).points, points, atol=1e-5)
    write_e57(tmp_path / "b.e57", points + 1)
    drive = open_drive(tmp_path)
    assert drive.apart
    assert len(drive.scans.read(0, 2).points) == 1000
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path, "b.e57")
    assert len(open_drive(archive).scans.read(0, 1).points) == 500
    for damage in (b"", path.read_bytes()[:-500], b"ASTM-E57" + bytes(5000)):
        path.write_bytes(damage)
        with pytest.raises(MaptileError, match=r"a\.e57: not readable as a e57 point cloud"):
            open_drive(path)


# --- damage to real recordings -------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@fuzz(20)
@given(kind=st.sampled_from([".pcap", ".json", ".bag"]), choices=st.data())
def test_damage_to_recordings_of_an_ouster_is_an_error_or_a_sound_drive(
    data_dir: Path, tmp_path: Path, kind: str, choices: st.DataObject
) -> None:
    pytest.importorskip("ouster.sdk")
    folder = data_dir / "formats" / "ouster"
    name = "512x10_raw" if kind == ".bag" else "OS-1-128_767798045_1024x10_20230712_120049"
    suffixes = [".bag"] if kind == ".bag" else [".pcap", ".json"]
    for suffix in suffixes:
        content = (folder / f"{name}{suffix}").read_bytes()
        data = choices.draw(damaged(content)) if suffix == kind else content
        (tmp_path / f"drive{suffix}").write_bytes(data)
    read(tmp_path / f"drive{suffixes[0]}", within=tmp_path)
