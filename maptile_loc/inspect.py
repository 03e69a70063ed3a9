"""What is in a city or a drive, in words."""

from __future__ import annotations

from pathlib import Path

from data_prep.city import City, open_city
from data_prep.inspect import inspect_drive
from data_prep.sources import open_drive


def inspect(path: Path) -> list[str]:
    """Lines that say what lies at ``path``.

    Raises:
        MaptileError: It is neither a city nor a drive that can be read.
    """
    if (path / "city.json").exists() or path.suffix.lower() in {".tif", ".tiff"}:
        return _city(open_city(path))
    return inspect_drive(open_drive(path))


def _city(city: City) -> list[str]:
    raster, tiles = city.raster, city.tiles()
    latitude, longitude = raster.projection.inverse(raster.centre)
    pixels = f"{raster.width} x {raster.height} of {raster.resolution} m"
    covered = (raster.data > 0).mean(axis=(1, 2))
    return [
        f"city: {city.name}, from {city.source}, as of {city.source_date or 'an unknown day'}",
        f"centre: {latitude:.5f}, {longitude:.5f}; CRS: {raster.crs.name}",
        f"raster: {pixels}, {raster.area_km2:.2f} km2",
        f"covered: buildings {covered[0]:.1%}, roads {covered[1]:.1%}, paths {covered[2]:.1%}",
        f"footprints: {len(city.buildings())} buildings, {len(city.roads())} roads and paths",
        f"tiles: {len(tiles)}, {int(tiles['empty'].sum())} of them with nothing in them",
        f"content hash: {city.content_hash}",
        *(f"note: {note}" for note in city.notes),
    ]
