"""Random routes along a city's roads, and the speed of a vehicle on them."""

from __future__ import annotations

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.geometry import Array

_STEP_M = 0.5
"""Distance of two points along a route, metres."""

_SMOOTH_M = 3.0
"""Standard deviation of the Gaussian that smooths the walk along the road graph, metres."""

_LANE_M = 1.2
"""Mean distance of the vehicle from the road's centre line, to the right, metres."""

_CRUISE_M_S = 8.0
"""Highest speed, metres per second."""

_SIDEWAYS_M_S2 = 2.0
"""Highest lateral acceleration in bends, metres per second squared."""

_ALONG_M_S2 = 1.5
"""Highest acceleration and deceleration, metres per second squared."""

_START_M_S = 1.0
"""Speed at both ends of a route, metres per second."""


def road_walk(
    city: City, length_m: float, margin_m: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return a random route in the right-hand lane of the city's roads.

    At each junction the route takes one of the roads taken least often so far, and never turns
    back.

    Args:
        city: The map.
        length_m: Length of the route, metres; it may be shorter.
        margin_m: Roads closer to the map's edge are not used, metres.
        rng: Draws the route and the position in the lane.

    Returns:
        (N, 2) east, north in the map frame, metres; and (N,) headings, radians, continuous.

    Raises:
        MaptileError: The map has no roads inside its edge.
    """
    xy = _smooth(_resampled(_graph_walk(city, length_m, margin_m, rng)), _SMOOTH_M / _STEP_M)
    tangent = np.gradient(xy, axis=0)
    aside = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    lane = _LANE_M + _smooth(rng.normal(0, 1, (len(xy), 1)), 80.0) * 4.0
    xy = _resampled(_smooth(xy + lane * aside, 2.0 / _STEP_M))
    return xy, np.unwrap(np.arctan2(*np.gradient(xy, axis=0).T[::-1]))


def drive_times(xy: Array, heading: Array) -> Array:
    """Return (N,) seconds at which a vehicle passes each point of a route.

    The speed is the highest that the limits on speed and on lateral acceleration allow; a forward
    and a backward pass limit the acceleration along the route.

    Args:
        xy: (N, 2) equally spaced positions, metres.
        heading: (N,) radians, continuous.
    """
    step = np.hypot(*np.diff(xy, axis=0).T)
    curvature = np.abs(np.gradient(heading)) / np.mean(step)
    speed = np.minimum(_CRUISE_M_S, np.sqrt(_SIDEWAYS_M_S2 / np.maximum(curvature, 1e-6)))
    speed[0] = speed[-1] = _START_M_S
    for order in (range(1, len(speed)), range(len(speed) - 2, -1, -1)):
        for i in order:
            before = speed[i - 1] if order.step > 0 else speed[i + 1]
            speed[i] = min(speed[i], np.sqrt(before**2 + 2 * _ALONG_M_S2 * np.mean(step)))
    return np.insert(np.cumsum(step / (speed[1:] + speed[:-1]) * 2), 0, 0.0)


def _graph_walk(city: City, length_m: float, margin_m: float, rng: np.random.Generator) -> Array:
    """Return (N, 2) vertices of a random walk over the road graph, east, north, metres."""
    table = city.roads()
    roads = shapely.unary_union(table[table["kind"] == "road"].geometry.values)
    edges = [np.array(line.coords) for line in shapely.get_parts(roads)]
    edges = _largest_part([xy for xy in edges if city.raster.inside(xy, margin_m).all()])
    if not edges:
        raise MaptileError(f"{city.name}: no roads inside the map to drive a route on")
    leaving: dict[bytes, list[tuple[int, Array]]] = {}
    for number, xy in enumerate(edges):
        leaving.setdefault(_node(xy[0]), []).append((number, xy))
        leaving.setdefault(_node(xy[-1]), []).append((number, xy[::-1]))
    used = np.zeros(len(edges))
    last, here = -1, _node(edges[int(rng.integers(len(edges)))][0])
    pieces: list[Array] = []
    total = 0.0
    while total < length_m:
        options = [edge for edge in leaving[here] if edge[0] != last]
        if not options:
            break
        last, xy = min(options, key=lambda edge: used[edge[0]] + rng.random())
        used[last] += 1
        pieces.append(xy)
        total += float(np.hypot(*np.diff(xy, axis=0).T).sum())
        here = _node(xy[-1])
    return np.concatenate([pieces[0][:1], *[piece[1:] for piece in pieces]])


def _largest_part(edges: list[Array]) -> list[Array]:
    """Return the edges of the largest connected part of a road graph, without its dead ends.

    Dead ends stay if the part consists of them alone.

    Args:
        edges: Lines, (n, 2) vertices each, metres; edges are connected where their ends coincide.
    """
    while edges:
        names = [[_node(xy[0]), _node(xy[-1])] for xy in edges]
        _, node = np.unique(np.array(names), return_inverse=True)
        node = node.reshape(-1, 2)
        graph = coo_array((np.ones(len(node)), node.T), shape=(node.max() + 1,) * 2)
        part = connected_components(graph, directed=False)[1][node[:, 0]]
        largest = part == np.argmax(np.bincount(part))
        through = (np.bincount(node.ravel()) > 1)[node].all(axis=1)
        keep = largest & through if (largest & through).any() else largest
        if keep.all():
            break
        edges = [xy for xy, kept in zip(edges, keep, strict=True) if kept]
    return edges


def _node(xy: Array) -> bytes:
    """Return the name of the junction at a (2,) position, equal within a centimetre."""
    return str(np.round(xy, 2).tolist()).encode()


def _resampled(xy: Array) -> Array:
    """Return points on a line at equal distances."""
    travelled = np.insert(np.cumsum(np.hypot(*np.diff(xy, axis=0).T)), 0, 0.0)
    s = np.arange(0, travelled[-1], _STEP_M)
    return np.stack([np.interp(s, travelled, xy[:, i]) for i in (0, 1)], axis=1)


def _smooth(values: Array, sigma: float) -> Array:
    return np.asarray(gaussian_filter1d(values, sigma, axis=0, mode="nearest"))
