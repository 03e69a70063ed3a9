"""The kind of a map file, by its content; and the errors of libraries that read it, as one line.

A name says little: servers send pages of HTML as ``map.osm``, and browsers save JSON as ``.osm``.
"""

from __future__ import annotations

import bz2
import gzip
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple, cast

import pyproj
import shapely

from data_prep.errors import MaptileError

Kind = Literal["xml", "pbf", "o5m", "overpass", "vector", "parquet"]
"""OSM XML, OSM PBF, o5m, an answer of Overpass in JSON, what GDAL reads, GeoParquet."""

SUFFIXES = (
    *(".osm", ".osm.gz", ".osm.bz2", ".pbf", ".json", ".geojson", ".geojsonl", ".gpkg", ".shp"),
    *(".fgb", ".parquet", ".geoparquet"),
)
"""Usual suffixes of the files that are read here; their content decides."""
KNOWN = f"{', '.join(SUFFIXES)} and .tif"
"""The files that a city can be made from, for messages."""
HEAD = 1 << 16
"""Bytes by which the kind of a file is recognised."""
MAX_JSON = 1 << 29
"""Most bytes of a JSON file: its readers need several times as much memory."""
MAX_PACKED = 200
"""A file that is packed to a smaller part than one of this many is no map."""

PACKINGS: dict[bytes, Literal["gz", "bz2"]] = {b"\x1f\x8b": "gz", b"BZh": "bz2"}
"""First bytes of packed files that are read as they are."""
OTHER_PACKINGS = {
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
"""First bytes of packed files that are not read, with their kind."""
BINARY: dict[bytes, Kind] = {
    b"SQLite format 3\0": "vector",
    b"fgb": "vector",
    b"\0\0\x27\x0a": "vector",
    b"PAR1": "parquet",
    b"\xff\xe0\x04o5m2": "o5m",
}
"""First bytes of binary files: GeoPackage, FlatGeobuf, Shapefile, Parquet, o5m."""
CUT_OFF = ("EOF", "unclosed token", "no element found", "end of file", "truncated")
"""Words of libraries about a file whose end is missing."""
ASK = "ask Overpass for them: out body; >; out skel; or out geom;"
"""What to do about an answer of Overpass without tags, or without positions."""
EXTRACT = "make the extract with them (osmium extract, osmium getid -r)"
"""What to do about a binary OSM file without tags, or without positions."""
XML_REFUSED = {
    "osmchange": "a change file (osmChange), no map; apply it to the map that it belongs to "
    "(osmium apply-changes) and use the result",
    "osmaugmenteddiff": "a change file, no map; ask the server for the map itself",
    "osm-script": "a query for Overpass, not its answer; send it to the server and save the answer",
    "html": "a web page, no map; open it in a browser to read what the server says, then download "
    "the map again",
    "graphml": "a graph of streets without buildings; save the buildings and streets as a "
    "GeoPackage",
    "gpx": "tracks (GPX), no map; download a map of the area",
}
"""XML that is no map, by the name of its first element: what is said of it."""


class MapFile(NamedTuple):
    """A map file whose kind is known.

    Attributes:
        path: The file, or a folder of Shapefiles.
        kind: What its content is.
        packing: How the content is packed; empty if it is not.
    """

    path: Path
    kind: Kind
    packing: Literal["", "gz", "bz2", "zip"]

    def open(self) -> IO[bytes]:
        """The content, unpacked."""
        openers: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open}
        return cast(IO[bytes], openers.get(self.packing, open)(self.path, "rb"))

    @property
    def remedy(self) -> str:
        """What to do if the tags or the positions of objects of OSM are missing."""
        return EXTRACT if self.kind in ("pbf", "o5m") else ASK

    @property
    def gdal_name(self) -> str:
        """The name by which GDAL opens the file."""
        prefix = {"gz": "/vsigzip/", "zip": "/vsizip/"}.get(self.packing, "")
        return f"{prefix}{self.path.absolute()}"


def examine(path: Path) -> MapFile:
    """Return the kind of a map file.

    Raises:
        MaptileError: There is no such file, or it is no map.
    """
    with one_line(path):
        if not path.exists():
            raise MaptileError(f"{path}: no such file")
        if path.is_dir():
            if any(path.glob("*.shp")):
                return MapFile(path, "vector", "")
            raise MaptileError(f"{path}: a folder; name the map file in it")
        if not path.is_file():
            raise MaptileError(f"{path}: no regular file; copy its content into one")
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(b"PK\x03\x04"):
            return _zipped(path)
        for start, packing in PACKINGS.items():
            if head.startswith(start):
                packed = MapFile(path, "xml", packing)
                with packed.open() as content:
                    return packed._replace(kind=_kind(path, content.read(HEAD), packing))
        return MapFile(path, _kind(path, head, ""), "")


@contextmanager
def one_line(name: Path | str) -> Iterator[None]:
    """Turn whatever a library raises in the block into one line that names the map and a remedy.

    The error itself stays as the cause, which ``--debug`` shows.

    Args:
        name: The file, or what was asked for.

    Raises:
        MaptileError: Something was raised.
    """
    try:
        yield
    except MaptileError:
        raise
    except Exception as error:
        raise MaptileError(f"{name}: {_explained(error)}") from error


def check_growth(file: MapFile, unpacked: int) -> None:
    """Refuse a packed file that unpacks to far more than a map does.

    Args:
        file: The file.
        unpacked: Bytes that were unpacked up to now.

    Raises:
        MaptileError: It does.
    """
    if file.packing and unpacked > max(MAX_PACKED * file.path.stat().st_size, 1 << 26):
        raise MaptileError(
            f"{file.path}: unpacks to more than {MAX_PACKED} times its size, as no map does; "
            "download it again"
        )


def _kind(path: Path, head: bytes, packing: str) -> Kind:
    """The kind of unpacked content that begins with ``head``."""
    if not head:
        raise MaptileError(f"{path}: empty; download it again")
    if not head.strip(b"\0"):
        raise MaptileError(f"{path}: begins with zeros only, damaged; copy or download it again")
    if head[6:15] == b"OSMHeader":
        return _unpacked(path, "pbf", packing)
    for start, kind in BINARY.items():
        if head.startswith(start):
            return _unpacked(path, kind, packing)
    for start, name in OTHER_PACKINGS.items():
        if head.startswith(start):
            raise MaptileError(f"{path}: packed as {name}; unpack it first")
    if head.startswith((b"II*\0", b"MM\0*")):
        raise MaptileError(f"{path}: a raster; give it a name that ends in .tif")
    text = _text(head)
    if text.startswith("version https://git-lfs"):
        raise MaptileError(f"{path}: a pointer of Git LFS, not the file itself; run git lfs pull")
    if text.startswith("<"):
        return _xml_kind(path, text)
    if text.startswith(("{", "[", "\x1e")):
        return _json_kind(path, text)
    begin = " ".join(text[:200].split())[:60]
    if begin.isprintable() and "\ufffd" not in begin:
        raise MaptileError(f"{path}: no map but text that begins with {begin!r}; known are {KNOWN}")
    raise MaptileError(f"{path}: unknown kind of map file; known are {KNOWN}")


def _unpacked(path: Path, kind: Kind, packing: str) -> Kind:
    if packing:
        raise MaptileError(f"{path}: a packed {kind} file; unpack it first ({packing})")
    return kind


def _text(head: bytes) -> str:
    """The beginning of a text, without byte order mark and blanks."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace").strip()
    return head.decode("utf-8-sig", "replace").lstrip()


def _xml_kind(path: Path, text: str) -> Kind:
    found = re.search(r"<([A-Za-z][\w.:-]*)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    name = found[1] if found else ""
    if name == "osm":
        return "xml"
    said = XML_REFUSED.get(name.lower())
    said = said or f"XML that is no map (its first element is {name or '?'}); known are {KNOWN}"
    raise MaptileError(f"{path}: {said}")


def _json_kind(path: Path, text: str) -> Kind:
    found = re.search(r'"(elements|osm3s|Feature|FeatureCollection|Topology|geometry)"', text)
    if found is None or '"gdal_streamed_alg"' in text:
        raise MaptileError(
            f"{path}: JSON, but neither GeoJSON nor an answer of Overpass; save the map as one of "
            "them"
        )
    if path.stat().st_size > MAX_JSON:
        raise MaptileError(
            f"{path}: JSON of {path.stat().st_size / 1e9:.1f} GB; save it as GeoPackage or "
            ".osm.pbf, which are read in parts"
        )
    return "overpass" if found[1] in ("elements", "osm3s") else "vector"


def _zipped(path: Path) -> MapFile:
    """A zip archive, if it holds Shapefiles only; else an error that names the maps in it."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [PurePosixPath(entry.filename) for entry in entries]
    shapes = [name for name in names if name.suffix.lower() == ".shp"]
    if shapes and all(len(name.parts) == 1 for name in shapes):
        found = MapFile(path, "vector", "zip")
        check_growth(found, sum(entry.file_size for entry in entries))
        return found
    maps = [name.name for name in names if name.name.endswith(SUFFIXES)]
    inside = f"; in it: {', '.join(maps[:5])}" if maps else ""
    raise MaptileError(f"{path}: a zip archive; unpack it and name the map{inside}")


def _explained(error: Exception) -> str:
    """What an error of a library means for the user, with the remedy."""
    reason = " ".join(str(error).split()).partition(".;")[0][:300] or type(error).__name__
    if isinstance(error, MemoryError):
        return "does not fit into memory; cut it to the city first"
    if isinstance(error, RecursionError):
        return "its content is nested too deeply for a map; download it again"
    if isinstance(error, UnicodeError):
        return f"its text is no UTF-8 ({reason}); convert it (iconv), or download it again"
    if isinstance(error, EOFError) or any(mark in reason for mark in CUT_OFF):
        return f"cut off: {reason}; download it again"
    if isinstance(error, ET.ParseError):
        return f"not readable as XML: {reason}; correct that line, or download it again"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; check its permissions"
    if isinstance(error, pyproj.exceptions.ProjError):
        return f"its coordinates cannot be converted: {reason}; save it in WGS 84 degrees"
    if isinstance(error, shapely.errors.ShapelyError):
        return f"a shape in it cannot be read: {reason}; repair it in a GIS and save it again"
    return f"not readable as a map file: {reason}; download it again, or save it as GeoPackage"
