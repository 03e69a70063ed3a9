"""Make a city folder (map raster, tiles, footprints) from OpenStreetMap."""

from __future__ import annotations

from pathlib import Path

import click

from data_prep.counted import counted
from data_prep.errors import MaptileError
from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar


@click.command()
@click.argument("paths", metavar="[SOURCE] CITY", nargs=-1, required=True, type=options.PATH)
@click.option("--place", metavar="NAME", help='Name of a place, as "Oxford, UK".')
@click.option("--bbox", type=options.Numbers("W,S,E,N"), help="Box, degrees.")
@click.option("--point", type=options.Numbers("LAT,LON"), help="Centre, degrees.")
@click.option("--radius", metavar="M", default=1000.0, help="Metres around --point.")
@click.option("--date", metavar="YYYY-MM-DD", help="State of the map on a day.")
@options.cluster
@options.force
@options.recipe("city")
@options.overrides
def command(
    paths: tuple[Path, ...],
    place: str | None,
    bbox: tuple[float, float, float, float] | None,
    point: tuple[float, float] | None,
    radius: float,
    date: str | None,
    cluster: str | None,
    force: bool,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Make a city folder (map raster, tiles, footprints) from OpenStreetMap.

    SOURCE is an .osm, .osm.gz, .osm.bz2, .osm.pbf, .json (of Overpass), .gpkg, .geojson, .shp,
    .fgb, .parquet or .tif file; leave it out with --place, --bbox, --point or the recipe of a city.
    CITY is the folder to write.
    """
    import maptile_loc as ml

    *sources, folder = paths
    if len(sources) > 1:
        raise MaptileError("prepare takes one SOURCE and one CITY; quote names that hold blanks")
    named = [sources, place, bbox, point]
    if sum(bool(one) for one in named) > 1:
        raise MaptileError("give one of SOURCE, --place, --bbox or --point, not several")
    source = None
    if any(named):
        source = ml.OsmSource(
            path=sources[0] if sources else None,
            place=place,
            bbox=bbox,
            point=point,
            radius_m=radius if point else None,
            date=date,
        )
    with writing(folder, "city.json"), progress_bar() as progress:
        city = ml.prepare_city(
            source,
            folder,
            config=config,
            overrides=overrides,
            date=date,
            cluster=cluster,
            force=force,
            progress=progress,
        )
    console.say_notes(city.notes)
    console.say_recipe(config)
    raster = city.raster
    click.echo(
        f"{folder}: {city.name}, {counted(len(city.buildings()), 'building')}, "
        f"{counted(len(city.roads()), 'road')}, "
        f"{raster.width} x {raster.height} pixels of {raster.resolution} m "
        f"({raster.area_km2:.2f} km2), {counted(len(city.tiles()), 'tile')}"
    )
    console.say_next("localize", folder, "DRIVE", "--out", "OUT")
