"""The report of a city: where a vehicle can be localized, and which positions look alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.city.folder import City, open_city
from data_prep.city.raster import ATTRIBUTION
from data_prep.counted import counted
from data_prep.errors import MaptileError
from data_prep.files import ensure_folder, swapped_folder, write_json, write_text
from data_prep.locks import locked
from data_prep.progress import Progress, silent
from data_prep.standing import MADE_FROM, Keep, Origin, Product, check_standing, known_as
from maptile_loc.device import pick_device
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.report.city.distinctiveness import Distinctiveness, measure
from maptile_loc.report.city.distinctiveness_map import Pair, draw_report
from maptile_loc.report.city.road_views import SENSORS, DistinctSettings, Sensor, query_view
from maptile_loc.report.city.unfinished import UNFINISHED
from maptile_loc.report.marks import save

FILES = ("places.geojson", "districts.csv", "map.png", "report.json", UNFINISHED)
"""The files of a report; others in its folder stay."""
DISTRICT_M = 250.0
"""Side of the squares of ``districts.csv``; their corners are multiples of it in the map frame."""
TOLD_APART = 0.5
"""A position is distinguished if its distinctiveness is at least this."""
LONGEST_SUBMAP_M = 120.0
"""Longest path that a rendered tile of 128 m can contain, metres."""
PAIRS = 3
"""Largest number of pairs of look-alikes in the picture."""
PAIR_PROBABILITY = 0.2
"""Smallest probability of a look-alike in the picture."""
PAIRS_APART_M = 50.0
"""Smallest distance between any two positions of the pairs, metres."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``maptile city-report``.

    Attributes:
        city: A city folder, or a georeferenced raster.
        out: Folder to write; None for ``CITY/report``.
        submap_m: Metres of travel in a query tile.
        sensor: One of ``SENSORS``.
        places: Largest number of positions.
        device: "auto", "cpu" or "cuda".
        seed: Seed of all randomness.
        force: Replace whatever stands at ``out``.
    """

    city: Path
    out: Path | None = None
    submap_m: float = 20.0
    sensor: str = "robotcar"
    places: int = 1500
    device: str = "auto"
    seed: int = 0
    force: bool = False


def city_report(
    options: ReportOptions, settings: LocalizeSettings, progress: Progress = silent
) -> str:
    """Measure a city and write ``places.geojson``, ``districts.csv``, ``map.png``, ``report.json``.

    Args:
        options: What is measured, and where it is written.
        settings: How tiles are compared with the map.
        progress: Called after each tile.

    Returns:
        A line for the user.

    An interrupted report is resumed with the same options.

    Raises:
        MaptileError: Something else stands at ``out``; an option is out of range; the city has no
            roads; a file cannot be written.
    """
    distinct = distinct_settings(options)
    city = open_city(options.city)
    if options.out is None and city.folder is None:
        raise MaptileError(f"{options.city}: a raster is not a folder; give one with --out")
    out = options.city / "report" if options.out is None else options.out
    made_from = {"city": known_as(city.path, city.content_hash)}
    product = Product("report.json", made_from, lambda name: name not in FILES, (UNFINISHED,))
    with locked(out):
        keep = check_standing(out, product, options.force)
        ensure_folder(out)
        device, state = pick_device(options.device), out / UNFINISHED
        found = measure(city, distinct, settings, device, progress, state)
        summary = _write(city, found, options, distinct, (out, keep, made_from))
    return f"{out}: {', '.join(headline(summary))}"


def _write(
    city: City,
    found: Distinctiveness,
    options: ReportOptions,
    distinct: DistinctSettings,
    target: tuple[Path, Keep, Origin],
) -> dict[str, Any]:
    """Write the files of a report in one swap; returns the content of ``report.json``."""
    out, keep, made_from = target
    places = place_table(city, found)
    districts = district_table(places)
    summary = summarise(city, places, districts, options, distinct)
    pairs = pick_pairs(found, places, distinct)
    with swapped_folder(out, keep) as new:
        write_text(new / "places.geojson", _geojson(places))
        districts.to_csv(new / "districts.csv", index=False)
        save(draw_report(city, places, pairs, headline(summary)), new / "map.png")
        write_json(new / "report.json", {**summary, MADE_FROM: made_from})
    return summary


def distinct_settings(options: ReportOptions) -> DistinctSettings:
    """Return the settings that the options of the command line ask for.

    Raises:
        MaptileError: An option is out of range.
    """
    sensor: Sensor | None = next((name for name in SENSORS if name == options.sensor), None)
    if sensor is None:
        raise MaptileError(f"--sensor {options.sensor}: there are {', '.join(SENSORS)}")
    if not 0 <= options.submap_m <= LONGEST_SUBMAP_M:
        raise MaptileError(
            f"--submap is metres of travel inside a tile of 128 m: 0 to {LONGEST_SUBMAP_M:g}"
        )
    if options.places < 1:
        raise MaptileError("--places has to be 1 or more")
    return DistinctSettings(
        most_places=options.places,
        view=query_view(sensor, options.submap_m),
        seed=options.seed,
    )


def place_table(city: City, found: Distinctiveness) -> pd.DataFrame:
    """Return a table with a row per position.

    Columns:
        ``east``, ``north`` (metres, map frame), ``longitude``, ``latitude``, ``road_m`` (metres of
        road that the position represents), ``distinctiveness`` (0..1, probability of the true
        position), ``expected_recall`` (0..1), and the look-alike: ``alike_east``, ``alike_north``,
        ``alike_longitude``, ``alike_latitude``, ``alike_probability`` (NaN and 0 if there is none).
    """
    rows = np.arange(len(found.spots.piece))
    worst = found.alike_probability.argmax(axis=1)
    position, alike = found.spots.xy, found.alike[rows, worst]
    latitude, longitude = city.raster.projection.inverse(position)
    alike_latitude, alike_longitude = city.raster.projection.inverse(alike)
    return pd.DataFrame(
        {
            "east": position[:, 0],
            "north": position[:, 1],
            "longitude": longitude,
            "latitude": latitude,
            "road_m": found.spots.metres,
            "distinctiveness": found.probability.mean(axis=1),
            "expected_recall": found.expected_recall(),
            "alike_east": alike[:, 0],
            "alike_north": alike[:, 1],
            "alike_longitude": alike_longitude,
            "alike_latitude": alike_latitude,
            "alike_probability": found.alike_probability[rows, worst],
        }
    )


def district_table(places: pd.DataFrame, side_m: float = DISTRICT_M) -> pd.DataFrame:
    """Return a table with a row per square of ``side_m`` that contains positions.

    Columns:
        ``west``, ``south`` (metres, map frame), ``size_m``, ``places`` (number of positions),
        ``road_m`` (sum), ``expected_recall`` and ``distinctiveness`` (means over positions).
    """
    west, south = (np.floor(places[axis] / side_m) * side_m for axis in ("east", "north"))
    squares = places.assign(west=west, south=south).groupby(["west", "south"])
    table = squares.agg(
        places=("east", "size"),
        road_m=("road_m", "sum"),
        expected_recall=("expected_recall", "mean"),
        distinctiveness=("distinctiveness", "mean"),
    ).reset_index()
    table.insert(2, "size_m", side_m)
    return table


def summarise(
    city: City,
    places: pd.DataFrame,
    districts: pd.DataFrame,
    options: ReportOptions,
    settings: DistinctSettings,
) -> dict[str, Any]:
    """Return the content of ``report.json``."""
    road = places["road_m"].to_numpy()
    distinct, recall = (places[name].to_numpy() for name in ("distinctiveness", "expected_recall"))
    return {
        "city": city.name,
        "city_content_hash": city.content_hash,
        "source": city.source,
        "source_date": city.source_date,
        "attribution": ATTRIBUTION,
        "area_km2": city.raster.area_km2,
        "road_km": float(road.sum() / 1000),
        "places": len(places),
        "told_apart": float(road[distinct >= TOLD_APART].sum() / road.sum()),
        "expected_recall": float(np.average(recall, weights=road)),
        "median_distinctiveness": float(np.median(distinct)),
        "district_m": DISTRICT_M,
        "best_district_recall": float(districts["expected_recall"].max()),
        "worst_district_recall": float(districts["expected_recall"].min()),
        "sensor": options.sensor,
        "submap_m": options.submap_m,
        "heading": "known",
        "within_m": settings.within_m,
        "told_apart_from": TOLD_APART,
        "settings": settings.model_dump(mode="json"),
    }


def headline(summary: dict[str, Any]) -> list[str]:
    """Return the main facts of a summary, three texts."""
    seen = f"{summary['sensor']}, submaps of {summary['submap_m']:g} m, heading known"
    recall = f"{summary['expected_recall']:.2f}"
    return [
        f"{counted(summary['places'], 'position')} on {summary['road_km']:.1f} km of road",
        f"{100 * summary['told_apart']:.0f} % of the road is distinguishable",
        f"expected recall at {summary['within_m']:g} m {recall} ({seen})",
    ]


def pick_pairs(
    found: Distinctiveness, places: pd.DataFrame, settings: DistinctSettings
) -> list[Pair]:
    """Return up to ``PAIRS`` positions with their look-alikes, the most probable look-alike first.

    All positions and look-alikes are at least ``PAIRS_APART_M`` metres from each other.
    """
    pairs: list[Pair] = []
    worst = found.alike_probability.argmax(axis=1)
    for row in np.argsort(-places["alike_probability"].to_numpy(), kind="stable"):
        draw = worst[row]
        probability = float(found.alike_probability[row, draw])
        if probability < PAIR_PROBABILITY or len(pairs) == PAIRS:
            break
        ends = np.array([found.true[row, draw], found.alike[row, draw]])
        taken = np.array([end for pair in pairs for end in (pair.position, pair.alike)] + [ends[1]])
        gaps = np.linalg.norm(ends[:, None] - taken, axis=-1)
        if (gaps[0] < PAIRS_APART_M).any() or (gaps[1, :-1] < PAIRS_APART_M).any():
            continue
        walls = np.unpackbits(found.walls[row, draw], axis=1).astype(bool)
        pairs.append(Pair(ends[0], ends[1], probability, walls, settings.view.resolution))
    return pairs


def _geojson(places: pd.DataFrame) -> str:
    """Return the positions as GeoJSON (RFC 7946), a Point each."""
    columns = [name for name in places if name not in ("longitude", "latitude")]
    table = places[columns].round(3).astype(object)
    degrees = ["alike_longitude", "alike_latitude"]
    table[degrees] = places[degrees].round(8).astype(object)
    rows = table.where(places[columns].notna(), None).to_dict("records")
    points = places[["longitude", "latitude"]].round(8).to_numpy().tolist()
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": point},
            "properties": properties,
        }
        for point, properties in zip(points, rows, strict=True)
    ]
    content = {"type": "FeatureCollection", "attribution": ATTRIBUTION, "features": features}
    return json.dumps(content, allow_nan=False)
