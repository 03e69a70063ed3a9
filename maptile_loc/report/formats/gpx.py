"""GPX 1.1: localized scans as a GPS track."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from data_prep.city.raster import ATTRIBUTION
from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import stretches, trajectory_table, utc_times
from maptile_loc.types import Localization

LICENSE_URL = "https://opendatacommons.org/licenses/odbl/1-0/"
"""Address of the Open Database License, under which OpenStreetMap's data is."""


def write(found: Localization, path: Path) -> None:
    """Write one track with a segment per localized stretch."""
    table = trajectory_table(found)
    gpx = ET.Element(
        "gpx", version="1.1", creator="maptile-loc", xmlns="http://www.topografix.com/GPX/1/1"
    )
    about = ET.SubElement(gpx, "metadata")
    ET.SubElement(about, "desc").text = f"Localized on {ATTRIBUTION}"
    owner = ET.SubElement(about, "copyright", author="OpenStreetMap contributors")
    ET.SubElement(owner, "license").text = LICENSE_URL
    track = ET.SubElement(gpx, "trk")
    ET.SubElement(track, "name").text = "trajectory"
    times = utc_times(table["t_ns"].to_numpy())
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    for run in stretches(table["localized"].to_numpy()):
        segment = ET.SubElement(track, "trkseg")
        for i in range(run.start, run.stop):
            position = {"lat": f"{latitude[i]:.8f}", "lon": f"{longitude[i]:.8f}"}
            ET.SubElement(ET.SubElement(segment, "trkpt", position), "time").text = times[i]
    ET.indent(gpx)
    path.write_bytes(ET.tostring(gpx, encoding="utf-8", xml_declaration=True))


FORMAT = OutputFormat("trajectory.gpx", write)
