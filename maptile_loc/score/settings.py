"""Settings of the evidence and of its likelihood: the ``evidence`` and ``likelihood`` sections."""

from __future__ import annotations

import numpy as np
import pydantic

from data_prep.settings import Positive, Settings

Profile = tuple[float, ...]


class EvidenceSettings(Settings):
    """How the cells of a query tile become evidence.

    Attributes:
        neighbourhood_m: Side of the square from which a wall cell's direction is estimated.
        path_m: Length of trajectory whose points weigh as much as one more point: the points of one
            trajectory are strongly correlated.
    """

    neighbourhood_m: Positive = 3.5
    path_m: Positive = 50.0


class LikelihoodSettings(Settings):
    """The log-likelihood ratios, piecewise linear in the distance to the map's edges and roads.

    ``wall``, ``facing`` and ``line`` are fitted (``benchmarks/fit/fit_score.py``). ``free`` and
    ``ground`` are fitted, then smoothed by hand. ``surface``, ``beside``, ``path`` and ``course``
    are set by hand from the distances of real trajectories to the map's roads, because simulated
    routes follow the roads exactly.

    Attributes:
        edge_m: Signed distances d from a building edge, metres, negative inside the building: the
            knots of the next four profiles.
        wall: Per square metre of wall evidence.
        facing: Per square metre of wall evidence, times the cosine of the angle between the normals
            of the observed wall and of the map's edge.
        line: The same, times the cosine of twice that angle.
        free: Per square metre observed to be free.
        road_m: Distances r from a road, metres: the knots of the next four profiles.
        ground: Per square metre of observed ground.
        surface: Added per square metre of ground that is a road's surface.
        beside: Added per square metre of ground that lies beside a road.
        path: Per unit of trajectory.
        course: Half the difference between driving along a road and driving across it, per unit of
            trajectory.
        smooth_m: Standard deviation of the Gaussian that smooths the distance field before its
            gradient gives the edges' normals.
        crossroads_m: Side of the square in which the course of the roads is estimated.
    """

    edge_m: Profile = (-8, -4, -2.5, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 4, 8)
    wall: Profile = (
        *(-0.257, -0.065, 0.121, 0.263, 0.395, 0.428, 0.427),
        *(0.326, 0.161, 0.002, -0.261, -0.521, -0.569, -0.439),
    )
    facing: Profile = (
        *(-0.135, 0.064, 0.229, 0.298, 0.312, 0.251, 0.260),
        *(0.296, 0.332, 0.348, 0.190, -0.050, -0.177, -0.215),
    )
    line: Profile = (
        *(0.142, 0.197, 0.275, 0.274, 0.208, 0.084, 0.076),
        *(0.187, 0.396, 0.614, 0.614, 0.417, 0.196, -0.033),
    )
    free: Profile = (
        *(0.014, 0.011, 0.008, 0.007, 0.007, 0.008, 0.014),
        *(0.021, 0.029, 0.035, 0.038, 0.041, 0.041, 0.041),
    )
    road_m: Profile = (0, 1.5, 3, 6, 10, 16, 25)
    ground: Profile = (0.0165, 0.0158, 0.0150, 0.0125, 0.0125, 0.0135, 0.0150)
    surface: Profile = (0.01, 0.01, 0.01, -0.02, -0.035, -0.05, -0.05)
    beside: Profile = (-0.005, 0.005, 0.01, 0.0075, 0.0025, 0.0, 0.0)
    path: Profile = (1.2, 0.975, 0.75, -0.75, -2.25, -3.75, -4.5)
    course: float = 1.125
    smooth_m: Positive = 0.75
    crossroads_m: Positive = 20.0

    @pydantic.model_validator(mode="after")
    def _fits(self) -> LikelihoodSettings:
        for knots, names in (
            ("edge_m", ("wall", "facing", "line", "free")),
            ("road_m", ("ground", "surface", "beside", "path")),
        ):
            at = getattr(self, knots)
            if len(at) < 2 or not np.all(np.diff(at) > 0):
                raise ValueError(f"{knots} has to be two or more increasing distances")
            for name in names:
                if len(getattr(self, name)) != len(at):
                    raise ValueError(f"{name} needs {len(at)} values, one for each of {knots}")
        return self
