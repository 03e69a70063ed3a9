"""What a city can tell: where a vehicle could say where it is, and which places look alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.city.folder import City, open_city
from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.files import atomic_file, ensure_folder, write_json, write_text
from maptile_loc.device import pick_device
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.report.city.distinctive import (
    SENSORS,
    Distinctiveness,
    DistinctSettings,
    Sensor,
    measure,
    query_view,
)
from maptile_loc.report.city.picture import Pair, draw_report
from maptile_loc.report.marks import save

DISTRICT_M = 250.0
"""Side of the squares of ``districts.csv``, which begin at multiples of it in the map frame."""
TOLD_APART = 0.5
"""A place is told apart where it is more probable than all others together."""
PAIRS, PAIR_PROBABILITY, PAIRS_APART_M = 3, 0.2, 50.0
"""So many pairs of look-alikes are shown, where one is so probable; all so far from each other."""


@dataclass(frozen=True)
class ReportOptions:
    """What the command line says; fields as in ``maptile city-report --help``."""

    city: Path
    out: Path | None = None
    submap_m: float = 20.0
    sensor: str = "robotcar"
    places: int = 1500
    device: str = "auto"
    seed: int = 0


def city_report(options: ReportOptions, settings: LocalizeSettings) -> str:
    """Measure a city and write ``places.geojson``, ``districts.csv``, ``map.png``, ``report.json``.

    Returns:
        A line for the user.

    Raises:
        MaptileError: Something does not fit, there are no roads, or it cannot be written.
    """
    distinct = distinct_settings(options)
    city = open_city(options.city)
    if options.out is None and city.folder is None:
        raise MaptileError(f"{options.city}: a raster is no folder; say where to write with --out")
    out = options.city / "report" if options.out is None else options.out
    ensure_folder(out)
    device = pick_device(options.device)
    found = measure(city, distinct, settings.search, settings.likelihood, device)
    places = place_table(city, found)
    districts = district_table(places)
    summary = summarise(city, places, districts, options, distinct)
    pairs = pick_pairs(found, places, distinct)
    write_text(out / "places.geojson", _geojson(places))
    with atomic_file(out / "districts.csv") as temporary:
        districts.to_csv(temporary, index=False)
    save(draw_report(city, places, pairs, headline(summary)), out / "map.png")
    write_json(out / "report.json", summary)
    return f"{out}: {', '.join(headline(summary))}"


def distinct_settings(options: ReportOptions) -> DistinctSettings:
    """How the command line wants a city to be looked at.

    Raises:
        MaptileError: A value is out of range.
    """
    sensor: Sensor | None = next((name for name in SENSORS if name == options.sensor), None)
    if sensor is None:
        raise MaptileError(f"--sensor {options.sensor}: there are {', '.join(SENSORS)}")
    if not 0 <= options.submap_m <= 120:
        raise MaptileError("--submap is metres of travel that a tile of 128 m can hold: 0 to 120")
    if options.places < 1:
        raise MaptileError("--places has to be 1 or more")
    return DistinctSettings(
        most_places=options.places,
        view=query_view(sensor, options.submap_m),
        seed=options.seed,
    )


def place_table(city: City, found: Distinctiveness) -> pd.DataFrame:
    """A row per place.

    Returns:
        ``east``, ``north`` (metres, map frame), ``longitude``, ``latitude``, ``road_m`` (metres of
        road that the place stands for), ``distinctiveness`` (0..1, the probability of the true
        place), ``expected_recall`` (0..1), and the look-alike: ``alike_east``, ``alike_north``,
        ``alike_longitude``, ``alike_latitude``, ``alike_probability`` (NaN, 0: there is none).
    """
    rows = np.arange(len(found.spots.piece))
    worst = found.alike_probability.argmax(axis=1)
    place, alike = found.spots.xy, found.alike[rows, worst]
    latitude, longitude = city.raster.projection.inverse(place)
    alike_latitude, alike_longitude = city.raster.projection.inverse(alike)
    return pd.DataFrame(
        {
            "east": place[:, 0],
            "north": place[:, 1],
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
    """A row per square of ``side_m`` that holds places; a place counts as much as another.

    Returns:
        ``west``, ``south`` (metres, map frame), ``size_m``, ``places``, ``road_m``,
        ``expected_recall``, ``distinctiveness``.
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
    """What ``report.json`` holds."""
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
    """A summary's facts in words."""
    seen = f"{summary['sensor']}, submaps of {summary['submap_m']:g} m, heading known"
    recall = f"{summary['expected_recall']:.2f}"
    return [
        f"{summary['places']} places on {summary['road_km']:.1f} km of road",
        f"{100 * summary['told_apart']:.0f} % of it can be told apart",
        f"expected recall at {summary['within_m']:g} m {recall} ({seen})",
    ]


def pick_pairs(
    found: Distinctiveness, places: pd.DataFrame, settings: DistinctSettings
) -> list[Pair]:
    """The most confusable places, far from one another, with the walls that were seen there."""
    pairs: list[Pair] = []
    worst = found.alike_probability.argmax(axis=1)
    for row in np.argsort(-places["alike_probability"].to_numpy(), kind="stable"):
        draw = worst[row]
        probability = float(found.alike_probability[row, draw])
        if probability < PAIR_PROBABILITY or len(pairs) == PAIRS:
            break
        ends = np.array([found.true[row, draw], found.alike[row, draw]])
        taken = np.array([end for pair in pairs for end in (pair.place, pair.alike)] + [ends[1]])
        gaps = np.linalg.norm(ends[:, None] - taken, axis=-1)
        if (gaps[0] < PAIRS_APART_M).any() or (gaps[1, :-1] < PAIRS_APART_M).any():
            continue
        walls = np.unpackbits(found.walls[row, draw], axis=1).astype(bool)
        pairs.append(Pair(ends[0], ends[1], probability, walls, settings.view.resolution))
    return pairs


def _geojson(places: pd.DataFrame) -> str:
    """RFC 7946: a point per place."""
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
