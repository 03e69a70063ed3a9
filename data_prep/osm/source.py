"""The source of a city's map: a file, or an area to request from the servers of OpenStreetMap."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pydantic

from data_prep.errors import MaptileError
from data_prep.settings import Settings

Bounds = tuple[float, float, float, float]
"""West, south, east, north."""

_CHOICES = "--place NAME, --bbox W,S,E,N, or --point LAT,LON with --radius M"
"""The online sources, for messages."""


@dataclass(frozen=True)
class OsmSource:
    """The source of a map: one of ``path``, ``place``, ``bbox``, or ``point`` with ``radius_m``.

    Attributes:
        path: An OSM file (.osm, .osm.gz, .osm.bz2, .osm.pbf), GeoPackage, GeoJSON or GeoParquet
            file. ``prepare_city`` also takes a georeferenced raster (.tif).
        place: A name that Nominatim knows, such as ``Oxford, UK``; the map is the bounding box of
            its area.
        bbox: West, south, east, north in degrees (WGS 84).
        point: Latitude, longitude in degrees (WGS 84).
        radius_m: Half the side of the square around ``point``, metres.
        date: Date of the map data (YYYY-MM-DD), for online sources; None for the current map.

    Raises:
        MaptileError: No source or several are given, or a value is out of range.
    """

    path: Path | None = None
    place: str | None = None
    bbox: Bounds | None = None
    point: tuple[float, float] | None = None
    radius_m: float | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        given = [self.path, self.place, self.bbox, self.point]
        if sum(value is not None for value in given) != 1:
            raise MaptileError(f"a city has exactly one source: a file, or {_CHOICES}")
        if (self.point is None) != (self.radius_m is None):
            raise MaptileError("a point needs a radius: --point LAT,LON --radius M")
        if self.radius_m is not None and self.radius_m <= 0:
            raise MaptileError(f"radius {self.radius_m} m: expected a value above 0")
        if self.point is not None and not (abs(self.point[0]) < 89 and abs(self.point[1]) <= 180):
            raise MaptileError(f"point {self.point}: expected latitude, longitude in degrees")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise MaptileError(
                    f"bbox {self.bbox}: expected west < east and south < north in degrees; for an "
                    "area across the 180th meridian, use a file"
                )
        if self.date is not None:
            if self.path is not None:
                raise MaptileError(f"{self.path}: a file is a map of one date; leave --date out")
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError:
                raise MaptileError(f"date {self.date!r}: expected YYYY-MM-DD") from None


class OnlineSettings(Settings):
    """The servers that are asked for map data, and the time that they have.

    Attributes:
        overpass_url: The Overpass API, which returns map data.
        nominatim_url: The Nominatim server, which returns the area of a place.
        deadline_s: Seconds after which a request fails.
        cache: Folder in which answers are stored; the user's cache folder by default.
    """

    overpass_url: str = "https://overpass-api.de/api"
    nominatim_url: str = "https://nominatim.openstreetmap.org/"
    deadline_s: float = pydantic.Field(default=300.0, gt=0)
    cache: Path | None = None

    @property
    def cache_folder(self) -> Path:
        """The folder in which the answers of the Overpass and Nominatim servers are stored."""
        return self.cache or Path(platformdirs.user_cache_dir("maptile-loc"))
