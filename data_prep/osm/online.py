"""Buildings and roads of an area from Overpass, and areas of places from Nominatim, by osmnx.

osmnx sends the requests and stores the answers. An answer of Overpass is then read by the same code
as an OSM file, because the tables of osmnx do not say which ways are outer rings of a building.
"""

from __future__ import annotations

import json
import math
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

import osmnx
import requests

from data_prep.errors import MaptileError
from data_prep.osm.elements import osm_xml, standing
from data_prep.osm.files import read_osm_file
from data_prep.osm.kinds import examine
from data_prep.osm.overpass import json_objects
from data_prep.osm.source import Bounds, OnlineSettings
from data_prep.osm.tables import Extract
from data_prep.progress import Progress, silent

T = TypeVar("T")

_RETRY_S = 55
"""osmnx repeats a request this many seconds after an answer of 429 or 504, without a limit."""
_OLD_STYLE_UNTIL = "2018"
"""In older maps, multipolygons may have their tags on their outer ways."""


def read_overpass(
    bounds: Bounds, date: str | None, settings: OnlineSettings, *, progress: Progress = silent
) -> Extract:
    """Fetch the buildings and roads of an area.

    Args:
        bounds: West, south, east, north in degrees.
        date: Date of the map data (YYYY-MM-DD); None for the current map.
        settings: The servers, and the time that they have.
        progress: Called once a second.

    Raises:
        MaptileError: The server cannot be reached, refuses the request, is too busy, or does not
            answer before the deadline.
    """
    tags: dict[str, bool | str | list[str]] = {"building": True, "highway": True}
    tags["place"] = "square"
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
        # osmnx stops when the answer is stored; it is read below.
        osmnx.settings.cache_only_mode = True
        _ask(ask, settings.overpass_url, settings.deadline_s, progress)
    root: dict[str, str] = {}
    answers = [examine(file) for file in sorted(folder.glob("*.json"))]
    elements = [element for answer in answers for element in json_objects(answer, root)]
    west, south, east, north = bounds
    edges = f'minlon="{west}" minlat="{south}" maxlon="{east}" maxlat="{north}"'
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "overpass.osm"
        whole = standing(path, elements)
        path.write_text("\n".join(osm_xml(whole, edges, date or root.get("date"))), "utf-8")
        return read_osm_file(examine(path), progress=progress)


def find_place(place: str, settings: OnlineSettings, *, progress: Progress = silent) -> Bounds:
    """Return the bounding box of a place: west, south, east, north in degrees.

    Args:
        place: A name that Nominatim knows.
        settings: The servers, and the time that they have.
        progress: Called once a second.

    Raises:
        MaptileError: The place is not known or is a point; or as ``read_overpass``.
    """

    def ask() -> Bounds:
        try:
            found = osmnx.geocode_to_gdf(place)
        except osmnx._errors.InsufficientResponseError:
            raise MaptileError(
                f"{place!r}: no such place known; try another spelling, or use --bbox W,S,E,N"
            ) from None
        except TypeError:
            raise MaptileError(
                f"{place!r}: known as a point, not as an area; use --point LAT,LON --radius M"
            ) from None
        west, south, east, north = found.total_bounds
        return float(west), float(south), float(east), float(north)

    with _osmnx_settings(settings.cache_folder / "nominatim", None, settings):
        return _ask(ask, settings.nominatim_url, settings.deadline_s, progress)


@contextmanager
def _osmnx_settings(folder: Path, date: str | None, settings: OnlineSettings) -> Iterator[None]:
    """Change osmnx's global settings for one request, and restore them afterwards."""
    as_of = "" if date is None else f'[date:"{date}T00:00:00Z"]'
    name = f"maptile-loc/{version('maptile-loc')}"
    changes = {
        "overpass_url": settings.overpass_url,
        "nominatim_url": settings.nominatim_url,
        "overpass_settings": "[out:json][timeout:{timeout}]{maxsize}" + as_of,
        # Overpass reports by itself (429) that it is too busy. Without a network, osmnx's question
        # for its status would take a minute.
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
    # osmnx replaces this function in the whole process.
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
    """Return a hook that raises for useless answers, where osmnx would repeat the request forever.

    Args:
        deadline: On the monotonic clock; an answer of 429 or 504 is an error if osmnx's next
            request would come after it.
    """

    def check(answer: requests.Response, *_: Any, **__: Any) -> None:
        status = f"{answer.status_code} {answer.reason}"
        if answer.status_code in {429, 504}:
            if time.monotonic() + _RETRY_S <= deadline:
                return
            problem = (
                f"too busy, or too many requests from here ({status}); try again in a few minutes, "
                "or use a file"
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


def _ask(request: Callable[[], T], url: str, deadline_s: float, progress: Progress) -> T:
    """Return the result of ``request``, run in a thread: osmnx has no deadline of its own.

    Raises:
        MaptileError: It failed, or took more than ``deadline_s`` seconds.
    """
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
    begin = time.monotonic()
    while worker.is_alive() and (waited := time.monotonic() - begin) < deadline_s:
        worker.join(min(1.0, deadline_s - waited))
        progress(f"wait for {host}", int(time.monotonic() - begin), math.ceil(deadline_s))
    if results:
        return results[0]
    if not errors:
        raise MaptileError(
            f"{host}: no answer within {deadline_s:.0f} s; try again later, or use a file"
        )
    raise _explained(errors[0], host)


def _explained(error: Exception, host: str) -> MaptileError:
    """Return ``error`` as a message for the user."""
    if isinstance(error, MaptileError):
        return error
    if isinstance(error, requests.Timeout):
        return MaptileError(f"{host}: no answer in time; try again later, or use a file")
    if isinstance(error, requests.ConnectionError):
        return MaptileError(f"{host}: cannot be reached; check the network, or use a file")
    reason = " ".join(str(error).split())
    explained = MaptileError(f"{host}: no usable answer: {reason}; use a file instead")
    explained.__cause__ = error
    return explained
