"""Hostile files: very large ones, bombs, and what is no file. Memory and time of each command.

Every file is made, then `prepare` and `inspect` read it if it is a map, `inspect` and `localize` if
it is a recording. Each has to end, whatever its answer, without a traceback, within 2 GB and 60 s
of processor time.

Run: python benchmarks/hostile.py [--work FOLDER] [--only NAME ...]
The files take some 10 GB in FOLDER; each is removed once it is measured.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import geopandas
import laspy
import numpy as np
import shapely
from stamp import head, row, stamp

from data_prep.simulate.town import write_town

MOST_GB, MOST_S = 2.0, 60.0
LONGEST_S = 600
"""A command that takes longer is ended."""
POINTS = 50_000_000
PART = 1_000_000
"""Points and objects that are written at a time."""


class Hostile(NamedTuple):
    """A hostile file.

    Attributes:
        name: Its name.
        write: Makes it.
        is_map: Whether it is read as a map; otherwise as a recording.
    """

    name: str
    write: Callable[[Path], None]
    is_map: bool


# --- Maps -----------------------------------------------------------------------------------------


def _bomb(path: Path) -> None:
    """4 GB of blanks after the beginning of a map, packed into 4 MB."""
    with gzip.open(path, "wb", compresslevel=6) as stream:
        stream.write(b'<?xml version="1.0"?><osm version="0.6">\n')
        for _ in range(4000):
            stream.write(b" " * PART)


def _endless_text(path: Path) -> None:
    """A tag of 1 GB."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write('<?xml version="1.0"?><osm version="0.6"><node id="1" lat="49" lon="8">')
        stream.write('<tag k="building" v="')
        for _ in range(1000):
            stream.write("y" * PART)


def _deep(path: Path) -> None:
    """Ten million elements in each other."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write('<?xml version="1.0"?><osm version="0.6">' + "<relation>" * 10_000_000)


def _entities(path: Path) -> None:
    """Entities that stand for each other: 10^9 letters of a file of 1 kB."""
    lines = ['<!ENTITY a0 "houses">']
    lines += [f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9)]
    body = '<osm version="0.6"><node id="1" lat="49" lon="8"><tag k="name" v="&a9;"/></node></osm>'
    path.write_text(f'<?xml version="1.0"?><!DOCTYPE osm [{"".join(lines)}]>{body}')


def _unordered(path: Path) -> None:
    """100,000 buildings before their nodes, which are in random order."""
    ways = 100_000
    order = np.random.default_rng(0).permutation(4 * ways)
    with path.open("w", encoding="utf-8") as stream:
        stream.write('<?xml version="1.0"?><osm version="0.6">\n')
        for number in range(ways):
            nodes = "".join(f'<nd ref="{4 * number + k % 4 + 1}"/>' for k in range(5))
            stream.write(f'<way id="{number + 1}">{nodes}<tag k="building" v="yes"/></way>\n')
        way, corner = np.divmod(order, 4)
        east, north = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]).T[:, corner] * 1e-4
        lon, lat = 8 + 3e-4 * (way % 300) + east, 49 + 3e-4 * (way // 300) + north
        for node, y, x in zip(order, lat, lon, strict=True):
            stream.write(f'<node id="{node + 1}" lat="{y:.7f}" lon="{x:.7f}"/>\n')
        stream.write("</osm>")


def _rings(path: Path) -> None:
    """A multipolygon of 45,000 rings."""
    count = 45_000
    with path.open("w", encoding="utf-8") as stream:
        stream.write('<?xml version="1.0"?><osm version="0.6">\n')
        for ring in range(count):
            x, y = 8 + 2e-4 * (ring % 200), 49 + 2e-4 * (ring // 200)
            for k, (dx, dy) in enumerate([(0, 0), (1e-4, 0), (1e-4, 1e-4), (0, 1e-4)]):
                at = f'lat="{y + dy:.7f}" lon="{x + dx:.7f}"'
                stream.write(f'<node id="{4 * ring + k + 1}" {at}/>\n')
        for ring in range(count):
            nodes = "".join(f'<nd ref="{4 * ring + k % 4 + 1}"/>' for k in range(5))
            stream.write(f'<way id="{ring + 1}">{nodes}</way>\n')
        members = "".join(
            f'<member type="way" ref="{ring + 1}" role="outer"/>' for ring in range(count)
        )
        tags = '<tag k="type" v="multipolygon"/><tag k="building" v="yes"/>'
        stream.write(f'<relation id="1">{members}{tags}</relation></osm>')


def _rows(path: Path) -> None:
    """A table of 3.1 million houses."""
    x, y = np.divmod(np.arange(3_100_000), 1800)
    boxes = shapely.box(8 + 2e-5 * x, 49 + 2e-5 * y, 8 + 2e-5 * x + 1e-5, 49 + 2e-5 * y + 1e-5)
    table = geopandas.GeoDataFrame(
        {"building": ["yes"] * len(boxes)}, geometry=boxes, crs="EPSG:4326"
    )
    table.to_parquet(path)


def _spiral(path: Path) -> None:
    """A building whose outline of 300,000 corners crosses itself everywhere."""
    at = np.random.default_rng(0).uniform(0, 1e-3, (300_000, 2)) + [8, 49]
    corners = ",".join(f"[{x:.7f},{y:.7f}]" for x, y in at)
    first = f"[{at[0, 0]:.7f},{at[0, 1]:.7f}]"
    path.write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"building":"yes"},'
        f'"geometry":{{"type":"Polygon","coordinates":[[{corners},{first}]]}}}}]}}'
    )


def _far(path: Path) -> None:
    """Two houses at the ends of a country."""
    houses = [shapely.box(x, y, x + 1e-4, y + 1e-4) for x, y in ((8, 48), (13, 54))]
    table = geopandas.GeoDataFrame({"building": ["yes"] * 2}, geometry=houses, crs="EPSG:4326")
    table.to_file(path, driver="GeoJSON")


# --- Recordings -----------------------------------------------------------------------------------


def _points() -> Iterator[np.ndarray]:
    """(N, 4) float32 points in all directions, a part at a time."""
    rng = np.random.default_rng(0)
    for _ in range(POINTS // PART):
        angle, far = rng.uniform(0, 2 * np.pi, PART), rng.uniform(2, 60, PART)
        table = [far * np.cos(angle), far * np.sin(angle), rng.uniform(-2, 8, PART), 0 * far]
        yield np.column_stack(table).astype("<f4")


def _bin(path: Path) -> None:
    with path.open("wb") as stream:
        stream.writelines(part.tobytes() for part in _points())


def _ply(path: Path) -> None:
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    with path.open("wb") as stream:
        first = f"ply\nformat binary_little_endian 1.0\nelement vertex {POINTS}\n"
        stream.write(f"{first}{names}end_header\n".encode())
        stream.writelines(part.tobytes() for part in _points())


def _text_ply(path: Path) -> None:
    """Ten million points as text."""
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    with path.open("w") as stream:
        stream.write(f"ply\nformat ascii 1.0\nelement vertex 10000000\n{names}end_header\n")
        for _, part in zip(range(10), _points(), strict=False):
            np.savetxt(stream, part, "%.3f")


def _pcd(path: Path) -> None:
    with path.open("wb") as stream:
        first = "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
        second = (
            f"WIDTH {POINTS}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {POINTS}\nDATA binary\n"
        )
        stream.write((first + second).encode())
        stream.writelines(part.tobytes() for part in _points())


def _las(path: Path) -> None:
    header = laspy.LasHeader(point_format=0, version="1.2")
    header.scales = np.full(3, 0.001)
    with laspy.open(path, mode="w", header=header) as stream:
        for part in _points():
            record = laspy.ScaleAwarePointRecord.zeros(len(part), header=header)
            record.x, record.y, record.z = part[:, :3].T
            stream.write_points(record)


def _sparse(path: Path) -> None:
    """8 GB that take nothing on disk."""
    with path.open("wb") as stream:
        stream.truncate(8 << 30)


def _claims(path: Path) -> None:
    """A cloud that states 10^12 points and has three."""
    first = "ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\n"
    names = "".join(f"property float {name}\n" for name in "xyz")
    path.write_bytes(f"{first}{names}end_header\n".encode() + bytes(36))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


HOSTILE = (
    Hostile("bomb.osm.gz", _bomb, True),
    Hostile("endless.osm", _endless_text, True),
    Hostile("deep.osm", _deep, True),
    Hostile("entities.osm", _entities, True),
    Hostile("unordered.osm", _unordered, True),
    Hostile("rings.osm", _rings, True),
    Hostile("rows.parquet", _rows, True),
    Hostile("spiral.geojson", _spiral, True),
    Hostile("far.geojson", _far, True),
    Hostile("pipe.osm", _pipe, True),
    Hostile("points.bin", _bin, False),
    Hostile("points.ply", _ply, False),
    Hostile("text.ply", _text_ply, False),
    Hostile("points.pcd", _pcd, False),
    Hostile("points.las", _las, False),
    Hostile("sparse.bin", _sparse, False),
    Hostile("claims.ply", _claims, False),
    Hostile("pipe.bin", _pipe, False),
)


class Spent(NamedTuple):
    """What a command needed, and how it ended.

    Attributes:
        status: Its exit status.
        seconds: Of processor time.
        gb: Its peak memory.
        text: The last line that it printed.
        held: Whether it stayed within the limits, and ended without a traceback.
    """

    status: int
    seconds: float
    gb: float
    text: str
    held: bool


def measured(arguments: list[str], folder: Path) -> Spent:
    """Run ``maptile`` with some arguments in a folder."""
    log = folder / "log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "maptile_loc", *arguments]
        child = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream)
        ends = time.monotonic() + LONGEST_S
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > ends:
                child.kill()
            time.sleep(0.1)
    usage: resource.struct_rusage = ended[2]
    status = os.waitstatus_to_exitcode(ended[1])
    seconds, gb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6
    text = log.read_text(errors="replace").strip()
    held = status in (0, 2, 3) and "Traceback" not in text and gb <= MOST_GB and seconds <= MOST_S
    return Spent(status, seconds, gb, text.splitlines()[-1] if text else "", held)


def main() -> int:
    """Make and read each file; returns 1 where one did not hold."""
    parser = argparse.ArgumentParser(description="Memory and time of hostile files.")
    parser.add_argument("--work", type=Path, default=Path("build/hostile"), metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "city" / "city.json").is_file():
        write_town(work / "town.osm")
        measured(["prepare", "town.osm", "city"], work)
    print(stamp(), end="\n\n")
    head("file", "command", "status", "CPU s", "peak GB", "last line")
    fine = True
    for hostile in HOSTILE:
        if given.only and hostile.name not in given.only:
            continue
        path = work / hostile.name
        path.unlink(missing_ok=True)
        # A child's peak contains that of its parent: files are written by another process.
        writer = multiprocessing.get_context("spawn").Process(target=hostile.write, args=(path,))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"{hostile.name} could not be written")
        made = ["prepare", path.name, "made"]
        found = ["localize", "city", path.name, "--out", "found"]
        for arguments in (made if hostile.is_map else found, ["inspect", path.name]):
            spent = measured([*arguments, "--force"], work)
            texts = f"{spent.seconds:.1f}", f"{spent.gb:.2f}", spent.text[:160]
            row(hostile.name, arguments[0], str(spent.status), *texts)
            fine &= spent.held
        path.unlink()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
