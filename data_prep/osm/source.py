"""Where a city comes from: a file, or a place, box or point to ask the servers of OSM for."""

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

_ONE = "--place NAME, --bbox W,S,E,N, or --point LAT,LON with --radius M"


@dataclass(frozen=True)
class OsmSource:
    """Exactly one of ``path``, ``place``, ``bbox`` and ``point`` (with ``radius_m``).

    Attributes:
        path: An OSM file (.osm, .osm.gz, .osm.bz2, .osm.pbf), GeoPackage, GeoJSON or GeoParquet.
        place: A name that Nominatim knows, such as ``Oxford, UK``: the box around its area.
        bbox: West, south, east, north in degrees.
        point: Latitude, longitude in degrees.
        radius_m: Half the side of the square around ``point``, metres.
        date: The map as of this day (YYYY-MM-DD); online sources only.

    Raises:
        MaptileError: None or several given, or a value that cannot be.
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
            raise MaptileError(f"a city comes from one source: a file, or {_ONE}")
        if (self.point is None) != (self.radius_m is None):
            raise MaptileError("a point needs a radius: --point LAT,LON --radius M")
        if self.radius_m is not None and self.radius_m <= 0:
            raise MaptileError(f"a radius of {self.radius_m} m holds nothing; give one above 0")
        if self.point is not None and not (abs(self.point[0]) < 89 and abs(self.point[1]) <= 180):
            raise MaptileError(f"point {self.point}: expected latitude, longitude in degrees")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise MaptileError(
                    f"bbox {self.bbox}: expected west < east and south < north in degrees; an area "
                    "across the 180th meridian has to come from a file"
                )
        if self.date is not None:
            if self.path is not None:
                raise MaptileError(f"{self.path}: a file is of one date; leave --date out")
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError:
                raise MaptileError(f"date {self.date!r}: expected YYYY-MM-DD") from None


class OnlineSettings(Settings):
    """Which servers to ask, and how patiently.

    Attributes:
        overpass_url: The Overpass API that serves the map.
        nominatim_url: The Nominatim server that knows the places.
        deadline_s: Seconds after which to give up.
        cache: Folder for answers; the user's cache folder by default.
    """

    overpass_url: str = "https://overpass-api.de/api"
    nominatim_url: str = "https://nominatim.openstreetmap.org/"
    deadline_s: float = pydantic.Field(default=300.0, gt=0)
    cache: Path | None = None

    @property
    def cache_folder(self) -> Path:
        """Where answers are kept."""
        return self.cache or Path(platformdirs.user_cache_dir("maptile-loc"))
