"""The rows of ``literature.py``: each published method, its recipe, its figure and what differs."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name: For people, unique.
        family: "limits", "retrieval", "regression" or "classification".
        config: Its recipe in ``configs/``; None: nothing is trained.
        published: The published figure, with its own task; "" where none is at hand.
        source: Where this figure stands.
        differs: How this project's version differs.
        database: Of a descriptor: ``RetrievalSettings.database``.
    """

    name: str
    family: str
    config: str | None
    published: str
    source: str
    differs: str
    database: str = "roads"

    @property
    def slug(self) -> str:
        """The name of its file, and on the command line: ``crosslocate_two_branches``."""
        return "_".join(re.findall(r"\w+", self.name.lower()))


SMALL = "a quarter of VGG-16's width, from scratch; tiles seen from above; negatives of the batch"
"""What differs in all convolutional descriptors."""
CELLS = "squares of the plane; thresholds are shares of the road length; a small network"
"""What differs in all classifiers of cells."""
TUTORIAL = (
    "table of city-level accuracy, Chiu, Introduction to General Visual Geo-Localization, 2023"
)
"""Source of the classifiers' figures."""
CROSSLOCATE = "Tomesek et al., WACV 2022, section 6.2"
"""Source of CrossLocate's figures."""
REGRESSOR = "cosine and sine of the heading in place of the quaternion; a small residual network"
"""What differs in all regressors."""
SECOND_HAND = "second-hand, not verified in the paper"
"""Source of figures that are quoted from summaries."""

ROWS = (
    Row("chance", "limits", None, "", "", "positions drawn at random; errors of the median"),
    Row("search", "limits", None, "", "", "`--method match`, before alignment"),
    Row(
        "CrossLocate",
        "retrieval",
        "literature/crosslocate",
        "recall@1 38.66 %, recall@100 72.62 % within 1 km: photographs against depth maps of "
        "Switzerland, 3,513 queries, 40,000 km2",
        CROSSLOCATE,
        SMALL,
    ),
    Row(
        "CrossLocate, two branches",
        "retrieval",
        "literature/crosslocate_two",
        "a minor benefit over one branch (a figure without numbers)",
        "the same, section 5.4",
        SMALL,
    ),
    Row(
        "CrossLocate, sum-pooling",
        "retrieval",
        "literature/crosslocate_sum",
        "does not work across modalities (a figure without numbers)",
        "the same, section 5.4",
        SMALL,
    ),
    Row(
        "CrossLocate, uniform grid",
        "retrieval",
        "literature/crosslocate",
        "the same database as the first row of CrossLocate, 500 m apart",
        CROSSLOCATE,
        f"{SMALL}; 5 m apart",
        "grid",
    ),
    Row(
        "CrossLocate, compact grid",
        "retrieval",
        "literature/crosslocate",
        "used for training only, within 1 km of a query",
        "the same, section 3.3",
        f"{SMALL}; 5 m apart, within 15 m of a road",
        "compact",
    ),
    Row(
        "NetVLAD",
        "retrieval",
        "literature/netvlad",
        "recall@1 84.1 %, recall@5 94.6 % within 25 m: street views of Pittsburgh",
        "Arandjelovic et al., CVPR 2016, table 1, as quoted by pytorch-NetVlad",
        f"{SMALL}; 16 centres, not 64, to which the assignment stays tied; no PCA",
    ),
    Row(
        "CVFT",
        "retrieval",
        "literature/cvft",
        "recall@1 61.43 %, recall@10 90.49 %: panoramas against aerial images, CVUSA",
        "Shi et al., AAAI 2020, abstract",
        f"{SMALL}; 4 x 4 positions; the cost network's form is this project's",
    ),
    Row(
        "SAANE",
        "retrieval",
        "literature/saane",
        "8 to 15 % better by semantics, 4 % more by attention: webcams",
        "the tutorial by Chiu, 2023",
        "transformers; attention per branch, not per position; channels in place of classes",
    ),
    Row(
        "depth panoramas",
        "retrieval",
        "panorama",
        "",
        "",
        "this project's, after CrossLocate's one branch and depth; shifts of 5 degrees",
    ),
    Row(
        "VLAD",
        "retrieval",
        None,
        "",
        "",
        "untrained; SIFT's histograms on a grid, one scale, no orientation; 64 centres",
    ),
    Row(
        "vocabulary tree",
        "retrieval",
        None,
        "",
        "",
        "untrained; the same descriptors; 8 branches, 3 levels; every level counts",
    ),
    Row(
        "PoseNet, beta",
        "regression",
        "literature/posenet_beta",
        "",
        "",
        REGRESSOR,
    ),
    Row(
        "PoseNet, learned weights",
        "regression",
        "literature/posenet_learned",
        "mean 125.6 m, 27.1 deg: photographs of the RobotCar full route; 25.3 m, 17.5 deg: loop",
        SECOND_HAND,
        REGRESSOR,
    ),
    Row(
        "VLocNet, own relative weights",
        "regression",
        "literature/vlocnet",
        "median 0.048 m, 3.8 deg: rooms of 7-Scenes",
        SECOND_HAND,
        f"{REGRESSOR}; features of the tile before in place of its pose; no semantic stream",
    ),
    Row(
        "MvMF",
        "regression",
        "literature/mvmf",
        "44.7 % within 25 km on IM2GPS, 29.8 % on IM2GPS3k",
        TUTORIAL,
        "Gaussians on the plane, the limit on a small piece of the sphere; starts on road cells",
    ),
    Row(
        "PlaNet",
        "classification",
        "literature/planet",
        "26,263 cells of t1 = 10,000 and t2 = 50 photographs; no accuracy in the sources at hand",
        "the tutorial by Chiu, 2023",
        CELLS,
    ),
    Row(
        "CPlaNet",
        "classification",
        "literature/cplanet",
        "37.1 % within 25 km on IM2GPS, 26.5 % on IM2GPS3k",
        TUTORIAL,
        f"{CELLS}; quadtrees in place of merged cells",
    ),
    Row(
        "ISN",
        "classification",
        "literature/isn",
        "43.0 % within 25 km on IM2GPS, 28.0 % on IM2GPS3k",
        TUTORIAL,
        f"{CELLS}; no scene types",
    ),
    Row(
        "Translocator",
        "classification",
        "literature/translocator",
        "48.1 % within 25 km on IM2GPS, 31.1 % on IM2GPS3k",
        TUTORIAL,
        f"{CELLS}; evidence and map semantics in place of image and segmentation; no scene types",
    ),
)
"""All rows, in the order of the tables."""
