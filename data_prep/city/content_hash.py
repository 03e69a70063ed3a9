"""The hash of a map's content, by which models and results refer to their city."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyproj

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array


def content_hash(raster: MapRaster, reference: Array) -> str:
    """SHA-256 (hexadecimal) of a map.

    It covers the pixels, their georeference, and the centre of the reference tile.

    Args:
        raster: The map.
        reference: (2,) east, north of the centre of the reference tile, metres.
    """
    digest = hashlib.sha256()
    georeference = (
        raster.data.shape,
        raster.west,
        raster.north,
        raster.resolution,
        _projection_name(raster.crs),
        *(float(value) for value in reference),
    )
    digest.update(json.dumps(georeference).encode())
    # A pixel is 0 or 255: one bit each is enough, and takes an eighth of the time.
    for band in raster.data:
        for top in range(0, raster.height, 1024):
            digest.update(np.packbits(band[top : top + 1024], axis=1).tobytes())
    return digest.hexdigest()


def _projection_name(crs: pyproj.CRS) -> list[Any]:
    """Return a projection's method, its ellipsoid's semi-major axis (metres) and its parameters.

    The parameters are a list of [name, value]. Names and remarks in a CRS differ between versions
    of PROJ; these values do not.
    """
    operation, ellipsoid = crs.coordinate_operation, crs.ellipsoid
    assert operation is not None
    assert ellipsoid is not None
    parameters = [[parameter.name, parameter.value] for parameter in operation.params]
    return [operation.method_name, ellipsoid.semi_major_metre, parameters]
