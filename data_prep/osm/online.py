"""Buildings and roads of an area from Overpass, and areas of places from Nominatim, by osmnx.

osmnx asks and caches; what Overpass answers is then read as an OSM file, by the same code as any
other, because osmnx's own tables do not say which ways are the outer rings of a building.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlparse
from xml.sax.saxutils import quoteattr

import osmnx
import requests
from tqdm import tqdm

from data_prep.errors import MaptileError
from data_prep.osm.files import read_osm_file
from data_prep.osm.source import Bounds, OnlineSettings
from data_prep.osm.tables import Extract

T = TypeVar("T")

_RETRY_S = 55
"""How long osmnx waits after an answer of 429 or 504 before it asks again, without end."""
_OLD_STYLE_UNTIL = "2018"
"""By then OSM had no multipolygons left that get their tags from their outer ways."""


def read_overpass(bounds: Bounds, date: str | None, settings: OnlineSettings) -> Extract:
    """Fetch the buildings and roads of an area.

    Args:
        bounds: West, south, east, north in degrees.
        date: The map as of this day (YYYY-MM-DD); None for now.
        settings: Servers and patience.

    Raises:
        MaptileError: No network, a server that refuses or is too busy, or the deadline is over.
    """
    tags: dict[str, bool | str | list[str]] = {"building": True, "highway": True}
    if date is not None and date < _OLD_STYLE_UNTIL:
        tags["type"] = "multipolygon"
    query = json.dumps([settings.overpass_url, bounds, date, tags])
    folder = settings.cache_folder / "overpass" / sha1(query.encode()).hexdigest()

    def ask() -> None:
        try:
            osmnx.features_from_bbox(bounds, tags)
        except osmnx._errors.CacheOnlyInterruptError:
            return

    with _osmnx_settings(folder, date, settings):
        # Stop at the cached answer: the tables are made of it below.
        osmnx.settings.cache_only_mode = True
        _ask(ask, settings.overpass_url, settings.deadline_s)
    answers = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    elements = {(e["type"], e["id"]): e for answer in answers for e in answer["elements"]}
    as_of = date or next((a.get("osm3s", {}).get("timestamp_osm_base") for a in answers), None)
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "overpass.osm"
        path.write_text("\n".join(_xml(list(elements.values()), bounds, as_of)), "utf-8")
        return read_osm_file(path)


def find_place(place: str, settings: OnlineSettings) -> Bounds:
    """The box around a place: west, south, east, north in degrees.

    Raises:
        MaptileError: No such place, a place without an area, or as ``read_overpass``.
    """

    def ask() -> Bounds:
        try:
            found = osmnx.geocode_to_gdf(place)
        except osmnx._errors.InsufficientResponseError:
            raise MaptileError(
                f"{place!r}: no such place known; try another spelling, or --bbox W,S,E,N"
            ) from None
        except TypeError:
            raise MaptileError(
                f"{place!r}: known as a point, not as an area; use --point LAT,LON --radius M"
            ) from None
        west, south, east, north = found.total_bounds
        return float(west), float(south), float(east), float(north)

    with _osmnx_settings(settings.cache_folder / "nominatim", None, settings):
        return _ask(ask, settings.nominatim_url, settings.deadline_s)


@contextmanager
def _osmnx_settings(folder: Path, date: str | None, settings: OnlineSettings) -> Iterator[None]:
    """Set osmnx up for one request; its settings are global, so put them back afterwards."""
    as_of = "" if date is None else f'[date:"{date}T00:00:00Z"]'
    name = f"maptile-loc/{version('maptile-loc')}"
    changes = {
        "overpass_url": settings.overpass_url,
        "nominatim_url": settings.nominatim_url,
        "overpass_settings": "[out:json][timeout:{timeout}]{maxsize}" + as_of,
        # Overpass says itself when it is too busy (429). Without a network, asking for its status
        # first would cost a minute.
        "overpass_rate_limit": False,
        "doh_url_template": None,
        "requests_timeout": max(int(settings.deadline_s), 1),
        "requests_kwargs": {"hooks": {"response": _check(time.monotonic() + settings.deadline_s)}},
        "use_cache": True,
        "cache_folder": folder,
        "cache_only_mode": False,
        "http_user_agent": name,
        "http_referer": name,
    }
    before = {key: getattr(osmnx.settings, key) for key in changes}
    # osmnx replaces this function for the whole process.
    getaddrinfo = socket.getaddrinfo
    try:
        for key, value in changes.items():
            setattr(osmnx.settings, key, value)
        yield
    finally:
        socket.getaddrinfo = getaddrinfo
        for key, value in before.items():
            setattr(osmnx.settings, key, value)


def _check(deadline: float) -> Callable[..., None]:
    """A hook that turns an answer nobody can use into an error, instead of a wait without end."""

    def check(answer: requests.Response, *_: Any, **__: Any) -> None:
        status = f"{answer.status_code} {answer.reason}"
        if answer.status_code in {429, 504}:
            if time.monotonic() + _RETRY_S <= deadline:
                return
            problem = (
                f"too busy, or too many requests from here ({status}); try again in some minutes, "
                "or use an extract from a file"
            )
        elif not answer.ok:
            problem = f"refuses the request ({status}); use a file instead"
        elif b'"remark"' in answer.content[-4096:]:
            problem = f"{answer.json().get('remark', 'no complete answer')}; take a smaller area"
        else:
            return
        answer.close()
        raise MaptileError(f"{urlparse(answer.url).netloc}: {problem}")

    return check


def _ask(request: Callable[[], T], url: str, deadline_s: float) -> T:
    """Run ``request`` beside, for at most ``deadline_s`` seconds: osmnx itself has no deadline."""
    host = urlparse(url).netloc
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(request())
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    end = time.monotonic() + deadline_s
    with tqdm(desc=f"waiting for {host}", unit="s", delay=2, disable=None, leave=False) as bar:
        while worker.is_alive() and time.monotonic() < end:
            worker.join(min(1.0, max(end - time.monotonic(), 0.0)))
            bar.update()
    if results:
        return results[0]
    if not errors:
        raise MaptileError(
            f"{host}: no answer within {deadline_s:.0f} s; try again later, or use a file"
        )
    error = errors[0]
    if isinstance(error, MaptileError):
        raise error
    if isinstance(error, requests.Timeout):
        raise MaptileError(f"{host}: no answer in time; try again later, or use a file") from None
    if isinstance(error, requests.ConnectionError):
        raise MaptileError(
            f"{host}: cannot be reached; check the network, or use a file instead"
        ) from None
    reason = " ".join(str(error).split())
    raise MaptileError(f"{host}: no usable answer: {reason}; use a file instead") from error


def _xml(elements: list[dict[str, Any]], bounds: Bounds, date: str | None) -> Iterator[str]:
    """Overpass's JSON elements as lines of OSM XML, sorted by kind and id."""
    west, south, east, north = bounds
    yield '<osm version="0.6">'
    if date is not None:
        yield f"<meta osm_base={quoteattr(date)}/>"
    yield f'<bounds minlon="{west}" minlat="{south}" maxlon="{east}" maxlat="{north}"/>'
    order = {"node": 0, "way": 1, "relation": 2}
    for element in sorted(elements, key=lambda e: (order[e["type"]], e["id"])):
        kind, number = element["type"], element["id"]
        place = f' lat="{element["lat"]}" lon="{element["lon"]}"' if kind == "node" else ""
        yield f'<{kind} id="{number}"{place}>'
        for node in element.get("nodes", []):
            yield f'<nd ref="{node}"/>'
        for member in element.get("members", []):
            role = quoteattr(member["role"])
            yield f'<member type="{member["type"]}" ref="{member["ref"]}" role={role}/>'
        for key, value in element.get("tags", {}).items():
            yield f"<tag k={quoteattr(key)} v={quoteattr(value)}/>"
        yield f"</{kind}>"
    yield "</osm>"
