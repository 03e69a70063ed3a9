"""The hash of a map's content, by which models and results refer to their city."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import lz4.block
import numpy as np
import pyproj
from numpy.typing import NDArray

from data_prep.city.pixels import packed
from data_prep.city.raster import BANDS, MapRaster
from data_prep.geometry import Array


class ContentDigest:
    """The hash of a map, whose pixels are added strip by strip.

    SHA-256 reads one band after the other. So the later bands are kept, compressed, until the
    first is complete.

    Args:
        raster: The map.
        reference: As for ``content_hash``.
    """

    def __init__(self, raster: MapRaster, reference: Array) -> None:
        about = json.dumps(georeference(raster, reference))
        self._digest = hashlib.sha256(about.encode())
        self._later: list[list[bytes]] = [[] for _ in BANDS[1:]]

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Add the next rows of pixels, from north: (3, h, ceil(W / 8)), as ``packed``."""
        first, *later = bits
        self._digest.update(first)
        for kept, band in zip(self._later, later, strict=True):
            kept.append(lz4.block.compress(band))

    def complete(self) -> str:
        """The hash (hexadecimal), after the last strip."""
        for band in self._later:
            for part in band:
                self._digest.update(lz4.block.decompress(part))
        return self._digest.hexdigest()


def content_hash(raster: MapRaster, reference: Array) -> str:
    """SHA-256 (hexadecimal) of a map.

    It covers the pixels, their georeference, and the centre of the reference tile.

    Args:
        raster: The map.
        reference: (2,) east, north of the centre of the reference tile, metres.
    """
    digest = ContentDigest(raster, reference)
    for strip in raster.strips():
        digest.add(packed(strip))
    return digest.complete()


def georeference(raster: MapRaster, reference: Array) -> list[Any]:
    """Return what a content hash covers besides the pixels, as JSON holds it.

    Args:
        raster: The map.
        reference: As for ``content_hash``.
    """
    return [
        list(raster.data.shape),
        raster.west,
        raster.north,
        raster.resolution,
        _projection_name(raster.crs),
        *(float(value) for value in reference),
    ]


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
