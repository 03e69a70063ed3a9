from __future__ import annotations

import gc
import gzip
import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_kitti import (
    circle,
    tenths,
    write_calibration,
    write_oxts,
    write_points,
    write_stamps,
)
from made_robotcar import (
    NO_LEVER,
    START,
    Fix,
    left_circle,
    write_extrinsics,
    write_ins,
    write_list,
    write_scan,
    write_vo,
)
from reader_checks import arrays, check_same, fuzz, truth_arrays

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.formats.common import file_names, file_numbers, read_bytes, read_records
from data_prep.sources.storage import archives
from data_prep.sources.storage.tree import Node, beside, open_tree, subfolders
from maptile_loc import cli

RUN = "2014-06-26-09-24-58"
DAY = "2011_09_26"
SYNC = "2011_09_26_drive_0005_sync"
SUFFIXES = [".zip", ".tar", ".tar.gz", ".tgz"]
RNG = np.random.default_rng(5)
FUZZ = fuzz(150)


# --- packing, by the standard library and by hand ------------------------------------------------


def pack(archive: Path, files: Mapping[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for name, data in files.items():
                target.writestr(name, data)
    else:
        with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as target:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                target.addfile(member, io.BytesIO(data))
    return archive


def below(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Contents of the files below ``folder`` that match, by path relative to its parent."""
    return {
        str(file.relative_to(folder.parent)): file.read_bytes()
        for pattern in patterns or ("**/*",)
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }


def by_hand(name: bytes, data: bytes, **lies: int) -> bytes:
    """A zip of one deflated file whose directory may be wrong."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(data) + packer.flush()
    crc = lies.get("crc", zlib.crc32(data))
    size, length = lies.get("size", len(data)), lies.get("packed", len(packed))
    flags, method = lies.get("flags", 0), lies.get("method", 8)
    both = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 0, crc, length, size, len(name), 0)
    local = b"PK\3\4" + both + name + packed
    offset = lies.get("offset", 0)
    central = b"PK\1\2" + struct.pack("<H", 20) + both + struct.pack("<HHHII", 0, 0, 0, 0, offset)
    central += name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def everything(node: Node) -> Iterator[tuple[str, bytes | None]]:
    """All paths below ``node`` with the files' contents; None for a folder."""
    for child in node.iterdir():
        if child.is_dir():
            yield child.name, None
            yield from ((f"{child.name}/{name}", data) for name, data in everything(child))
        elif child.is_file():
            yield child.name, child.read_bytes()


def same_drive(a: Drive, b: Drive) -> None:
    assert (a.name, a.format, a.scans.sensors, a.notes) == (
        b.name,
        b.format,
        b.scans.sensors,
        b.notes,
    )
    check_same(arrays(a) | truth_arrays(a), arrays(b) | truth_arrays(b))
    assert len(arrays(a)["block.points"])


# --- drives in the layouts they are published in -------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of RobotCar in folders, with its own extrinsics beside it."""
    path = tmp_path / "unpacked" / RUN
    us = [START + 62_500 * i for i in range(40)]
    for sensor, later in (("lms_front", 0), ("lms_rear", 9_000)):
        stamps = [t + later for t in us[:6]]
        for t in stamps:
            write_scan(path, sensor, t, RNG.uniform(1, 30, size=(20, 3)))
        write_list(path, sensor, stamps)
        write_extrinsics(path.parent / "extrinsics", sensor, "1 2 3 0.1 0.2 0.3")
    write_extrinsics(path.parent / "extrinsics", "ins", NO_LEVER)
    write_ins(path, [Fix(t, 51.76 + 1e-6 * i, -1.26, 0.01 * i) for i, t in enumerate(us)])
    write_vo(path, us, [left_circle(0.01 * i, 30.0) for i in range(len(us))])
    return path


def as_downloaded(run: Path, folder: Path, suffix: str = ".tar") -> Path:
    """An archive per sensor; lms_front's scans are split into three."""
    scans = sorted(below(run, "lms_front/*.bin").items())
    for chunk in range(3):
        files = dict(scans[2 * chunk : 2 * chunk + 2]) | below(run, "lms_front.timestamps")
        pack(folder / f"{RUN}_lms_front_0{chunk + 1}{suffix}", files)
    pack(folder / f"{RUN}_lms_rear_01{suffix}", below(run, "lms_rear/*.bin", "lms_rear.timestamps"))
    for part in ("gps", "vo"):
        pack(folder / f"{RUN}_{part}{suffix}", below(run, f"{part}/*"))
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_in_the_archives_of_robotcar(run: Path, tmp_path: Path, suffix: str) -> None:
    folder = as_downloaded(run, tmp_path / "downloads", suffix)
    assert len(list(folder.iterdir())) == 6
    shutil.copytree(run.parent / "extrinsics", folder / "extrinsics")
    drive = open_drive(folder)
    assert drive.name == RUN
    assert len(drive.scans.t_ns) == 12
    same_drive(open_drive(run), drive)
    same_drive(drive, open_drive(folder / RUN))
    (folder / "extrinsics").rename(tmp_path / "extrinsics")  # beside the folder of the archives
    same_drive(open_drive(run), open_drive(folder))
    shutil.rmtree(tmp_path / "extrinsics")
    built_in = open_drive(folder).scans.read(0, 12)
    assert not np.array_equal(built_in.points, drive.scans.read(0, 12).points)


def test_unpacked_files_are_preferred_to_archives(run: Path, tmp_path: Path) -> None:
    folder = as_downloaded(run, tmp_path / "downloads")
    shutil.copytree(run.parent / "extrinsics", folder / "extrinsics")
    for name in ("vo", "lms_rear_01"):
        with tarfile.open(folder / f"{RUN}_{name}.tar") as packed:
            packed.extractall(folder, filter="data")
        (folder / f"{RUN}_{name}.tar").unlink()
    same_drive(open_drive(run), open_drive(folder))
    write_scan(folder / RUN, "lms_front", START, np.full((1, 3), 7.0))
    mine = open_drive(folder, sensors=("lms_front",)).scans
    assert len(mine.t_ns) == 6
    assert len(mine.read(0, 1).points) == 1


@pytest.fixture
def sync(tmp_path: Path) -> Path:
    """A drive of KITTI raw in folders."""
    path = tmp_path / "unpacked" / DAY / SYNC
    for i in range(3):
        write_points(path / f"velodyne_points/data/{i:010d}.bin", RNG.uniform(2, 40, size=(30, 4)))
    write_stamps(path / "velodyne_points/timestamps.txt", tenths(3))
    write_oxts(path, circle(30, 20.0, 0.4), tenths(30))
    write_calibration(path.parent)
    return path


def test_a_drive_in_the_archives_of_kitti(sync: Path, tmp_path: Path) -> None:
    folder, files = tmp_path / "downloads", below(sync.parent)
    calibration = {name: files.pop(name) for name in list(files) if "calib_" in name}
    assert len(calibration) == 1
    archive = pack(folder / f"{SYNC}.zip", files)
    with pytest.raises(MaptileError, match=r"calib_imu_to_velo\.txt: no such file.*_calib\.zip"):
        open_drive(archive)
    pack(folder / f"{DAY}_calib.zip", calibration)
    known = open_drive(sync)
    assert known.name == SYNC
    for path in (folder, archive, folder / DAY, folder / DAY / SYNC, archive / DAY / SYNC):
        same_drive(known, open_drive(path))
    (folder / f"{DAY}_calib.zip").unlink()
    shutil.copy(sync.parent / "calib_imu_to_velo.txt", folder)
    same_drive(known, open_drive(archive))


def write_clouds(path: Path, count: int = 3) -> Path:
    for i in range(count):
        write_points(
            path / f"clouds/{1_317_384_506_407_123_456 + i * 10**8}.bin", [[10.0 + i, 2, 1]]
        )
    lines = [f"{1317384506 + i}.5 {i} 0 0 0 0 0 1" for i in range(count)]
    (path / "odometry.tum").write_text("\n".join(lines), "ascii")
    (path / "truth.csv").write_text(
        "t_ns,latitude,longitude,heading\n1317384506407123456,51.5,-1.2,1\n", "ascii"
    )
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("outer", ["", "./", "tuesday/", "a/b/tuesday/"])
def test_clouds_in_one_archive(tmp_path: Path, suffix: str, outer: str) -> None:
    """In all kinds of archives; without a folder around it, the archive names the drive."""
    known = open_drive(write_clouds(tmp_path / "tuesday"))
    files = {
        name.replace("tuesday/", outer): data for name, data in below(tmp_path / "tuesday").items()
    }
    drive = open_drive(pack(tmp_path / "in" / f"tuesday{suffix}", files))
    same_drive(known, drive)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_one_of_several_drives_is_chosen_by_its_path(tmp_path: Path, suffix: str) -> None:
    files = {}
    for day in ("monday", "tuesday"):
        files |= below(write_clouds(tmp_path / day))
    archive = pack(tmp_path / "in" / f"week{suffix}", files)
    for path in (archive, archive.parent):
        with pytest.raises(
            MaptileError, match=r"holds 2 drives; name one, .*\(monday, tuesday\)"
        ) as error:
            open_drive(path)
        named = re.search(r"such as (.*) \(", str(error.value))
        assert named is not None
        assert named[1] == str(path / "monday")
        assert open_drive(Path(named[1])).name == "monday"
    same_drive(open_drive(tmp_path / "tuesday"), open_drive(archive / "tuesday"))
    with pytest.raises(MaptileError, match=r"sunday: no such folder"):
        open_drive(archive / "sunday")
    loose = open_drive(archive / "monday" / "clouds")  # a folder of clouds, without odometry
    known = open_drive(archive / "monday")
    assert loose.odometry is None
    assert loose.scans.t_ns.tolist() == known.scans.t_ns.tolist()
    with pytest.raises(MaptileError, match="no drive of a known format"):
        open_drive(pack(archive.parent / f"none{suffix}", {"a/b.txt": b""}))
    with pytest.raises(MaptileError, match="neither a folder nor an archive"):
        open_drive(tmp_path / "monday" / "truth.csv" / "x")
    with pytest.raises(MaptileError, match=r"looked for|no such folder"):
        open_drive(archive, format="robotcar")


def test_the_command_line_takes_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(tmp_path / "tuesday.zip", below(write_clouds(tmp_path / "drives" / "tuesday")))
    monkeypatch.chdir(tmp_path)
    for path in (archive, archive / "tuesday"):
        monkeypatch.setattr(sys, "argv", ["maptile", "inspect", str(path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert not stopped.value.code, said.err
        assert "tuesday (clouds)" in said.out


# --- archives as other systems make them, and archives in archives ------------------------------


CLUTTER = ("__MACOSX/tuesday/._clouds", "tuesday/.DS_Store", "tuesday/clouds/Thumbs.db")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_macos_and_windows_add_is_left_out(tmp_path: Path, suffix: str) -> None:
    """``._x`` files beside x have its suffix, and would be clouds of their own."""
    known = open_drive(write_clouds(tmp_path / "tuesday"))
    files = below(tmp_path / "tuesday")
    for name in list(files):
        folder, _, file = name.rpartition("/")
        files[f"{folder}/._{file}"] = files[f"__MACOSX/{folder}/._{file}"] = b"\0\5\x16\7"
    files |= dict.fromkeys(CLUTTER, b"\0\0\0\1Bud1")
    same_drive(known, open_drive(pack(tmp_path / "in" / f"tuesday{suffix}", files)))
    for name, data in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    same_drive(known, open_drive(tmp_path / "copy" / "tuesday"))
    same_drive(known, open_drive(tmp_path / "copy"))


def test_zips_made_on_windows(tmp_path: Path) -> None:
    """Backslashes between parts, names in code page 437, sizes after the contents."""
    known = open_drive(write_clouds(tmp_path / "tuesday"))
    files = below(tmp_path / "tuesday")
    windows = {name.replace("/", "\\"): data for name, data in files.items()}
    same_drive(known, open_drive(pack(tmp_path / "in" / "tuesday.zip", windows)))
    streamed = tmp_path / "streamed" / "tuesday.zip"
    streamed.parent.mkdir()
    reading, writing = os.pipe()  # a zip is written to it without going back
    with ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb") as pipe:
        content = pool.submit(pipe.read)
        with os.fdopen(writing, "wb") as out, zipfile.ZipFile(out, "w") as target:
            for name, data in files.items():
                target.writestr(name, data)
        streamed.write_bytes(content.result())
    assert b"PK\7\x08" in streamed.read_bytes()
    same_drive(known, open_drive(streamed.parent))
    (tmp_path / "x.zip").write_bytes(by_hand(b"Stra\xe1e\\1.bin", b"12"))
    assert dict(everything(open_tree(tmp_path / "x.zip"))) == {
        "Straße": None,
        "Straße/1.bin": b"12",
    }
    (tmp_path / "y.zip").write_bytes(by_hand(b"..\\..\\up", b"12"))
    assert not dict(everything(open_tree(tmp_path / "y.zip")))


@pytest.mark.parametrize("outer", SUFFIXES)
@pytest.mark.parametrize("inner", SUFFIXES)
def test_an_archive_in_an_archive(tmp_path: Path, outer: str, inner: str) -> None:
    """As if it were unpacked beside itself."""
    write_clouds(tmp_path / "drives" / "tuesday")
    known = open_drive(tmp_path / "drives" / "tuesday")
    part = pack(tmp_path / "parts" / f"clouds{inner}", below(tmp_path / "drives" / "tuesday"))
    files = {"week/readme.txt": b"", f"week/{part.name}": part.read_bytes()}
    week = pack(tmp_path / "in" / f"week{outer}", files)
    same_drive(known, open_drive(week))
    same_drive(known, open_drive(week / "week" / "tuesday"))
    same_drive(known, pickle.loads(pickle.dumps(open_drive(week))))
    twice = pack(tmp_path / "twice" / f"all{outer}", {week.name: week.read_bytes()})
    same_drive(known, open_drive(twice))


def test_archives_in_archives_end(tmp_path: Path) -> None:
    data = pack(tmp_path / "0.zip", {"a.txt": b"1"}).read_bytes()
    for level in range(1, 6):
        data = pack(tmp_path / f"{level}.zip", {f"{level}.zip": data}).read_bytes()
    assert [name for name, _ in everything(open_tree(tmp_path / "5.zip"))] == ["3.zip"]
    (tmp_path / "bomb.zip").write_bytes(by_hand(b"inner.zip", bytes(200_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(MaptileError, match=r"bomb\.zip: .*inner\.zip is packed too tightly"):
            open_tree(tmp_path / "bomb.zip")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    cut = pack(tmp_path / "cut.zip", {"inner.zip": data[:-9]})
    with pytest.raises(MaptileError, match=r"cut\.zip/inner\.zip: not readable as an archive"):
        open_tree(cut)


# --- nodes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [None, *SUFFIXES])
def test_a_node_in_an_archive_behaves_like_a_path(tmp_path: Path, suffix: str | None) -> None:
    """``None``: a folder passes the same checks."""
    folder = tmp_path / "top"
    for name, data in {
        "top/a.b/c.tar.bin": b"12345678",
        "top/a.b/d": b"",
        "top/e.txt": b"\xc3\xa4\r\nx",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    node = (
        folder
        if suffix is None
        else open_tree(pack(tmp_path / f"x{suffix}", below(folder))) / "top"
    )
    assert node.is_dir() and not node.is_file()
    assert sorted(child.name for child in node.iterdir()) == ["a.b", "e.txt"]
    file = node / "a.b" / "c.tar.bin"
    assert str(file) == str(node / "a.b/c.tar.bin") == f"{node}/a.b/c.tar.bin"
    assert (file.name, file.stem, file.suffix, file.parent.name) == (
        "c.tar.bin",
        "c.tar",
        ".bin",
        "a.b",
    )
    assert file.is_file() and not file.is_dir()
    assert file.resolve().parent.parent.name == "top"
    assert file.read_bytes() == b"12345678"
    with file.open("rb") as stream:
        assert [stream.read(3), stream.read(100), stream.read(1)] == [b"123", b"45678", b""]
    assert (node / "e.txt").read_text(encoding="utf-8") == "ä\nx"
    with pytest.raises(ValueError, match="ascii"):
        (node / "e.txt").read_text(encoding="ascii")
    for absent in (node / "f", node / "a.b" / "c.tar.bin" / "g", node / "a"):
        assert not absent.is_file() and not absent.is_dir()
        with pytest.raises(OSError):
            absent.read_bytes()
        with pytest.raises(OSError):
            list(absent.iterdir())
    assert file_names(node) == ["e.txt"]
    assert [child.name for child in subfolders(node)] == ["a.b"]
    assert read_bytes(node / "a.b", "d") == b""
    assert read_records(node / "a.b", "c.tar.bin", 4) == b"12345678"
    with pytest.raises(MaptileError, match=r"c\.tar\.bin: 8 bytes are not a multiple of 3"):
        read_records(node / "a.b", "c.tar.bin", 3)
    with pytest.raises(MaptileError, match=r"top/f: cannot read this file \(No such file"):
        read_bytes(node, "f")


def test_the_parent_of_an_archive_is_the_real_folder(tmp_path: Path) -> None:
    root = open_tree(pack(tmp_path / "real" / "x.tar.gz", {"a/b/c": b""}))
    assert root.name == "x"
    assert root.parent == tmp_path / "real"
    assert [str(folder) for folder in beside(root / "a" / "b")] == [
        f"{tmp_path}/real/x.tar.gz/a",
        f"{tmp_path}/real/x.tar.gz",
        f"{tmp_path}/real",
    ]
    assert beside(tmp_path / "real") == [tmp_path]
    (tmp_path / "outside").write_bytes(b"secret")
    overlaid = open_tree(tmp_path / "real")
    assert (overlaid.name, overlaid.parent) == ("real", tmp_path)
    assert not (overlaid / "../outside").is_file()
    with pytest.raises(OSError):
        (overlaid / "../outside").read_bytes()


def test_a_folder_without_archives_is_itself(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / ".hidden.zip").write_bytes(b"")
    assert open_tree(tmp_path) == tmp_path
    assert open_tree(tmp_path / "nowhere") == tmp_path / "nowhere"


def test_of_equal_names_the_last_counts(tmp_path: Path) -> None:
    """The same as if they were unpacked one after the other."""
    for name, data in (("a", b"1"), ("b", b"2")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as target:
            for content in (data, data * 2):
                member = tarfile.TarInfo("same")
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
    assert (open_tree(tmp_path / "a.tar") / "same").read_bytes() == b"11"
    assert (open_tree(tmp_path) / "same").read_bytes() == b"22"
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "c.zip", "w") as z,
    ):
        z.writestr("same", b"3")
        z.writestr("same", b"33")
    assert (open_tree(tmp_path) / "same").read_bytes() == b"33"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_threads_and_other_processes_read_at_once(tmp_path: Path, suffix: str) -> None:
    files = {f"f/{i}": RNG.bytes(3000 + i) for i in range(200)}
    root = open_tree(pack(tmp_path / f"x{suffix}", files))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: (root / name).read_bytes(), list(files) * 5))
    assert read == list(files.values()) * 5
    again = pickle.loads(pickle.dumps(root / "f"))
    assert (again / "7").read_bytes() == files["f/7"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_a_gzipped_tar_is_unpacked_once_and_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    archive = pack(tmp_path / "x.tgz", {"a": RNG.bytes(300_000)})
    gc.collect()
    before = open_files()
    root = open_tree(archive)
    assert open_files() == before + 1
    assert not list((tmp_path / "t").iterdir())
    again = open_tree(archive)
    assert (again / "a").read_bytes() == (root / "a").read_bytes()
    assert open_files() == before + 1
    del root, again
    assert open_files() == before


def test_unpacking_reports_its_progress(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tgz", {"a": RNG.bytes(3_000_000)})
    calls: list[tuple[str, int, int]] = []
    open_tree(archive, lambda step, done, total: calls.append((step, done, total)))
    size = archive.stat().st_size
    assert {(step, total) for step, _, total in calls} == {("unpack x.tgz", size)}
    done = [count for _, count, _ in calls]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == size


def test_without_space_nothing_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "x.tgz", {"a": b"a"})
    monkeypatch.setattr(archives, "RESERVE_BYTES", shutil.disk_usage(tmp_path).total)
    with pytest.raises(MaptileError, match=r"x\.tgz: no space to unpack it in .*TMPDIR"):
        open_tree(archive)


# --- kinds of tar and zip ------------------------------------------------------------------------


names = st.lists(
    st.text("ab.ä ", min_size=1, max_size=70).filter(lambda part: part.strip(".")),
    min_size=1,
    max_size=4,
).map("/".join)


@FUZZ
@given(
    files=st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=5),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]),
    zip=st.booleans(),
)
def test_any_sound_archive_is_read(
    tmp_path: Path, files: list[tuple[str, bytes]], format: int, zip: bool
) -> None:
    known: dict[str, bytes] = {}
    for name, data in files:
        clash = any(
            f"{other}/".startswith(f"{name}/") or f"{name}/".startswith(f"{other}/")
            for other in known
        )
        if not clash:
            known[name] = data
    path = tmp_path / ("x.zip" if zip else "x.tar")
    if zip:
        pack(path, known)
    else:
        with tarfile.open(path, "w", format=format, encoding="utf-8") as target:
            for name, data in list(known.items()):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                member.mtime = 1.5
                try:
                    target.addfile(member, io.BytesIO(data))
                except ValueError:  # too long for ustar
                    del known[name]
    read = {name: data for name, data in everything(open_tree(path)) if data is not None}
    assert read == known


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("format", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_archives_of_the_tar_program_are_read(tmp_path: Path, format: str) -> None:
    """With folders, links, a pipe and a sparse file, which are ignored."""
    top = tmp_path / "top"
    (top / "empty").mkdir(parents=True)
    long = "n" * (80 if format == "v7" else 95)
    files = {"top/a.bin": b"12345", f"top/{long}": RNG.bytes(2000)}
    if format != "v7":
        files["top/" + "/".join(["d" * 60] * 3) + "/e"] = b"deep"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (top / "link").symlink_to("/etc/passwd")
    if format != "v7":
        os.mkfifo(top / "pipe")
    sparse = format in ("gnu", "oldgnu", "pax")
    if sparse:
        with (top / "aaa_sparse").open("wb") as file:
            for i in range(40):  # more holes than the first header has room for
                file.seek(i * 100_000)
                file.write(b"x")
    command = ["tar", f"--format={format}", *(["--sparse"] if sparse else []), "--sort=name"]
    subprocess.run([*command, "-cf", "x.tar", "top"], cwd=tmp_path, check=True)
    read = dict(everything(open_tree(tmp_path / "x.tar")))
    assert {name: data for name, data in read.items() if data is not None} == files
    assert read["top/empty"] is None


def test_a_zip_of_symlinks_and_other_methods(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as target:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        target.writestr(link, "/etc/passwd")
        target.writestr("stored", b"1" * 100)
        target.writestr("deflated", b"2" * 100, zipfile.ZIP_DEFLATED)
        target.writestr("bzip", b"3" * 100, zipfile.ZIP_BZIP2)
        with target.open("large", "w", force_zip64=True) as file:
            file.write(b"4" * 100)
    root = open_tree(tmp_path / "x.zip")
    assert sorted(child.name for child in root.iterdir()) == ["bzip", "deflated", "large", "stored"]
    assert (root / "stored").read_bytes() == b"1" * 100
    assert (root / "deflated").read_bytes() == b"2" * 100
    assert (root / "large").read_bytes() == b"4" * 100
    with pytest.raises(
        MaptileError, match=r"x\.zip: bzip is compressed by method 12; unpack it by hand"
    ):
        (root / "bzip").read_bytes()


def test_an_encrypted_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(by_hand(b"a", b"1" * 100, flags=1))
    with pytest.raises(MaptileError, match=r"x\.zip: a is encrypted; unpack it by hand"):
        (open_tree(tmp_path / "x.zip") / "a").read_bytes()


# --- wrong declarations --------------------------------------------------------------------------


HOSTILE = [
    "../up",
    "a/../../up",
    "/absolute",
    "..",
    ".",
    "/",
    "x\ny",
    "x\x1b[2J",
    "d/" * 40 + "deep",
]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_names_that_lead_out_are_ignored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "in" / f"x{suffix}"
    pack(path, dict.fromkeys([*HOSTILE, "good"], b"1"))
    before = sorted(tmp_path.rglob("*"))
    assert dict(everything(open_tree(path))) == {"good": b"1"}
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/absolute").exists()


def test_links_and_devices_are_ignored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as target:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"V"):
            member = tarfile.TarInfo(f"kind {kind!r}")
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = 0 if kind == b"V" else 700  # the size of the target; no content follows
            target.addfile(member)
        target.addfile(tarfile.TarInfo("good"))
    assert dict(everything(open_tree(tmp_path / "x.tar"))) == {"good": b""}


DATA = b"The quick brown fox. " * 500


@pytest.mark.parametrize(
    "lies",
    [
        {"size": len(DATA) - 1},
        {"size": len(DATA) + 1},
        {"size": 0},
        {"size": 10, "crc": zlib.crc32(DATA[:10])},
        {"size": 4_000_000_000},
        {"packed": 20},
        {"packed": 100_000},
        {"crc": 1},
        {"offset": 7},
        {"offset": 4_000_000},
        {"method": 0},
    ],
)
def test_wrong_declarations_in_a_zip_are_an_error(tmp_path: Path, lies: dict[str, int]) -> None:
    (tmp_path / "x.zip").write_bytes(by_hand(b"a", DATA))
    assert (open_tree(tmp_path / "x.zip") / "a").read_bytes() == DATA
    (tmp_path / "y.zip").write_bytes(by_hand(b"a", DATA, **lies))
    with pytest.raises(MaptileError, match=r"y\.zip") as error:
        (open_tree(tmp_path / "y.zip") / "a").read_bytes()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [100, 10_000_000])
def test_a_zip_bomb_takes_no_more_memory_than_it_declares(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.zip").write_bytes(by_hand(b"a", bytes(20_000_000), size=size))
    node = open_tree(tmp_path / "x.zip") / "a"
    tracemalloc.start()
    try:
        with pytest.raises(MaptileError, match="its size differs from the declared one"):
            node.read_bytes()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * size + 1_000_000


def test_memory_is_not_allocated_for_declared_sizes(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(by_hand(b"a", DATA, packed=2_000_000_000, size=2_000_000_000))
    node = open_tree(tmp_path / "x.zip") / "a"
    tracemalloc.start()
    try:
        with pytest.raises(MaptileError, match=r"a is damaged \(cut short\)"):
            node.read_bytes()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_file_that_is_too_large_is_only_read_as_a_stream(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.size = archives.MAX_FILE_BYTES + 1
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 511 + 1024)
    with pytest.raises(MaptileError, match="huge has 2147483649 bytes; more than 2147483648"):
        (open_tree(tmp_path / "x.tar") / "huge").read_bytes()
    with (open_tree(tmp_path / "x.tar") / "huge").open("rb") as stream:
        assert stream.read(10) == bytes(10)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\5\6", b"\x1f\x8b\x08", b"x" * 3000])
def test_a_file_that_is_not_an_archive_is_one_clear_line(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    for path in (tmp_path / f"x{suffix}", tmp_path):
        with pytest.raises(MaptileError, match=rf"x{suffix}: not readable as an archive") as error:
            open_drive(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_download_cut_short_is_an_error(tmp_path: Path, suffix: str, keep: float) -> None:
    path = pack(tmp_path / f"x{suffix}", {"a": RNG.bytes(20_000), "b": RNG.bytes(9_000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data.rstrip(b"\0")))])
    with pytest.raises(MaptileError, match=r"download it again"):
        open_tree(path)


SOUND = {"a/1.bin": RNG.bytes(700), "a/2.bin": b"", "a/b/3.bin": b"zeros" + bytes(3000)}


@FUZZ
@given(
    suffix=st.sampled_from([".zip", ".tar", ".tgz"]),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    keep=st.floats(0, 1),
)
def test_damage_gives_what_was_packed_or_one_clear_line(
    tmp_path: Path, suffix: str, format: int, edits: list[tuple[float, bytes]], keep: float
) -> None:
    buffer = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in SOUND.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w", format=format) as target:
            for name, data in {**SOUND, "long" * 60: b"x" * 100}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                target.addfile(member, io.BytesIO(data))
    damaged = bytearray(buffer.getvalue())
    if not edits:
        del damaged[int(keep * len(damaged)) :]
    for where, patch in edits:
        at = int(where * len(damaged))
        damaged[at : at + len(patch)] = patch
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(damaged, 1) if suffix == ".tgz" else damaged)
    try:
        read = {name: data for name, data in everything(open_tree(path)) if data is not None}
    except MaptileError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return
    if suffix == ".zip":  # a checksum guards the contents, though not the names
        assert set(read.values()) <= set(SOUND.values())
    elif not edits:
        assert all(SOUND.get(name, b"x" * 100) == data for name, data in read.items())


@FUZZ
@given(header=st.binary(max_size=400), size=st.binary(min_size=12, max_size=12))
def test_nonsense_in_a_header_with_a_right_checksum_is_one_clear_line(
    tmp_path: Path, header: bytes, size: bytes
) -> None:
    block = bytearray(header.ljust(512, b"\0"))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(block) * 2 + bytes(1024))
    try:
        list(everything(open_tree(path)))
    except MaptileError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("at", [0, 30, 99, 110, 130, 157, 300, 500])
def test_a_header_of_which_a_byte_is_changed_is_refused(tmp_path: Path, at: int) -> None:
    path = pack(tmp_path / "x.tar", {"a": b"1", "b": b"2"})
    data = bytearray(path.read_bytes())
    data[1024 + at] ^= 1
    path.write_bytes(data)
    with pytest.raises(MaptileError, match="no header of a member at byte 1024"):
        open_tree(path)


def test_pax_records_override_the_header(tmp_path: Path) -> None:
    records = b"16 path=a/b/c.d\n10 size=5\n"
    head, file = tarfile.TarInfo("x"), tarfile.TarInfo("other")
    head.type, head.size = tarfile.XHDTYPE, len(records)
    blocks = [head.tobuf(), records.ljust(512, b"\0"), file.tobuf(), b"12345".ljust(512, b"\0")]
    (tmp_path / "x.tar").write_bytes(b"".join([*blocks, tarfile.TarInfo("next").tobuf()]))
    read = dict(everything(open_tree(tmp_path / "x.tar")))
    assert read == {"a": None, "a/b": None, "a/b/c.d": b"12345", "next": b""}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_megabytes_is_an_error(tmp_path: Path, kind: bytes) -> None:
    head = tarfile.TarInfo("x")
    head.type, head.size = kind, 2 << 20
    (tmp_path / "x.tar").write_bytes(head.tobuf() + b"a" * head.size)
    with pytest.raises(MaptileError, match="the header at byte 0 is damaged"):
        open_tree(tmp_path / "x.tar")


@FUZZ
@given(
    records=st.binary(max_size=60)
    | st.from_regex(rb"\A(\d{1,3} (path|size)=[a-z0-9]{0,9}\n){1,3}\Z")
)
def test_nonsense_in_the_records_of_a_header_is_one_clear_line(
    tmp_path: Path, records: bytes
) -> None:
    head, file = tarfile.TarInfo("x"), tarfile.TarInfo("file")
    head.type, head.size = tarfile.XHDTYPE, len(records)
    path = tmp_path / "x.tar"
    path.write_bytes(head.tobuf() + records.ljust(512, b"\0") + file.tobuf() + bytes(1024))
    try:
        list(everything(open_tree(path)))
    except MaptileError as error:
        assert str(path) in str(error)


# --- size ----------------------------------------------------------------------------------------


def write_large_zip(path: Path, count: int, content: bytes) -> None:
    """Stored scans of a run; the standard library would take half a minute."""
    crc, size = zlib.crc32(content), len(content)
    local, central = [], []
    offset = 0
    for i in range(count):
        name = b"%s/lms_front/%d.bin" % (RUN.encode(), START + 20_000 * i)
        both = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, size, size, len(name), 0)
        local.append(b"PK\3\4" + both + name + content)
        tail = struct.pack("<HHHII", 0, 0, 0, 0, offset)
        central.append(b"PK\1\2\x14\0" + both + tail + name)
        offset += len(local[-1])
    directory = b"".join(central)
    # More than 65535 files: the number stands in the records of ZIP64.
    end = struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), offset
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + len(directory), 1)
    last = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"".join(local) + directory + end + locator + last)


def write_large_tar(path: Path, count: int, content: bytes) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as target:
        for i in range(count):
            member = tarfile.TarInfo(f"{RUN}/lms_front/{START + 20_000 * i}.bin")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("write", "suffix", "count"),
    [(write_large_zip, ".zip", 70_000), (write_large_tar, ".tar", 5_000)],
)
def test_archives_of_many_files_are_listed(
    tmp_path: Path, write: Callable[[Path, int, bytes], None], suffix: str, count: int
) -> None:
    content = np.tile([5.0, 1.0, 80.0], 4).tobytes()
    path = tmp_path / f"run{suffix}"
    write(path, count, content)
    scans = open_drive(path).scans
    assert len(scans.t_ns) == count
    folder = open_tree(path) / RUN / "lms_front"
    assert len(file_numbers(folder, r"(\d+)\.bin")) == count
    assert len(file_names(folder)) == count
    assert len(scans.read(count - 100, count).points) == 400
