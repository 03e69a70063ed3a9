"""Compare all pose regressors, on renders and on drives; prints markdown tables.

Run: python benchmarks/family.py CITY [DRIVE ...] [--work FOLDER] [--train MINUTES]
                                 [--only NAME ...] [--submap METRES] [--every METRES] [--searched]

The models are those in CITY/models. --train trains the models of the recipes that are missing, each
for MINUTES, and adapts those that can be adapted to each drive. The query tiles of a drive are kept
in FOLDER. Renders are of other positions, worlds and noise than in training. Each has a second
render 16 to 24 m before it, which only VLocNet reads. A model of windows of the map is given
windows whose centres are 10 m or more from those of all training windows.

On a drive, each row is the network's raw answer to single tiles, at queries whose truth is well
inside the map. "PGO" is the published optimisation over windows of seven tiles; "robust" is ours,
in which single answers may be wrong. "searched" is the best candidate of the search around the
answer, aligned; --searched adds it. "chance" is the best constant answer.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from stamp import head, row, stamp

import maptile_loc as ml
from data_prep.city.folder import City, open_city
from data_prep.drive import Drive
from data_prep.files import read_json
from data_prep.geometry import Array, wrap_angle
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.fuse.window import WindowSettings, window_poses
from maptile_loc.learn.adapt import AdaptSettings, adapt_to
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import DataSettings, ModelSettings
from maptile_loc.learn.tile_sequence import TileSequence, read_tile_sequence, see
from maptile_loc.learn.tiles.rendered import RenderedBatches
from maptile_loc.learn.tiles.supply import TRAINING_STREAM, VALIDATION_STREAM, batches
from maptile_loc.learn.tiles.windows import window_map
from maptile_loc.models.parts.published import CARD, read_model
from maptile_loc.models.regressor import MapNet
from maptile_loc.models.vlocnet import VLocNet
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import load_recipe
from maptile_loc.render.look import Look, look_of_card
from maptile_loc.render.vector_map import VectorMap, vector_map
from maptile_loc.render.view import Channel, ViewSettings
from maptile_loc.render.window import MapWindowSettings
from maptile_loc.report.metrics import MARGIN_M, truth_in_map
from maptile_loc.types import HeadingKnowledge, Queries

RECIPES = ("posenet", "mapnet", "vlocnet", "posterior", "tiles")
"""Recipes of the models that are compared."""

ADAPTABLE = ("mapnet", "posterior", "tiles")
"""Models that can be adapted to a drive."""

WINDOWS = {
    "PGO": WindowSettings(),
    "PGO, robust": WindowSettings(robust_m=10.0),
    "PGO, robust, 15 tiles": WindowSettings(robust_m=10.0, size=15),
}
"""Optimisations over windows of a drive, by name."""

SEED = 20_000
"""Seed of the renders, which no training uses."""

BEFORE_M = (16.0, 24.0)
"""Range of the distance between a render and the one before it, metres."""

BATCH = 50
"""Tiles that a model is given at a time."""

COLUMNS = ("n", "median m", "mean m", "p95 m", "<= 5 m", "<= 10 m", "<= 20 m")
"""Heads of the figures' columns."""


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        name: Name of its folder, and "adapted" if it was adapted to a drive.
        folder: Where it is published.
        model: The model.
        card: What was published with it.
    """

    name: str
    folder: Path
    model: MapNet
    card: dict[str, Any]

    @property
    def look(self) -> Look:
        """What its tiles show."""
        return look_of_card(self.card)

    @property
    def settled(self) -> str:
        """Steps and minutes of its training, as text."""
        taken = self.card["training"]
        steps = f"{taken['steps']} steps, {taken['seconds'] / 60:.1f} min"
        adapted = self.card.get("adapted")
        return f"{steps} + {adapted['steps']} steps" if adapted else steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("city", type=Path)
    parser.add_argument("drives", type=Path, nargs="*")
    parser.add_argument("--work", type=Path, default=Path("family"))
    parser.add_argument("--train", type=float, metavar="MINUTES")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Of the recipes.")
    parser.add_argument("--renders", type=int, default=2000)
    parser.add_argument("--submap", type=float, default=50.0)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--searched", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    city = open_city(arguments.city)
    recipes = arguments.only or RECIPES
    if arguments.train:
        for name in recipes:
            if not (arguments.city / "models" / name / CARD).is_file():
                train(city, load_settings(ModelSettings, name), minutes=arguments.train)
    print(stamp(), end="\n\n")
    entries = list(models(city, recipes))
    on_renders(city, entries, arguments.renders)
    for path in arguments.drives:
        on_drive(city, path, entries, arguments)


def models(city: City, names: tuple[str, ...]) -> Iterator[Entry]:
    """The models of a city, of those that are named."""
    assert city.folder is not None
    for name in names:
        folder = city.folder / "models" / name
        if (folder / CARD).is_file():
            model, card = read_model(folder, city, MapNet)
            yield Entry(name, folder, model, card)


# --- Renders --------------------------------------------------------------------------------------


def on_renders(city: City, entries: list[Entry], count: int) -> None:
    """Print the table of held-out renders."""
    ground = vector_map(city)
    print(f"Rendering: {rendered_per_second(ground):.0f} tiles/s on one core\n")
    head("renders", "heading", "trained", *COLUMNS)
    for mine in alike(entries):
        look, heading = mine[0].look, mine[0].model.heading
        data = DataSettings(tuple_size=2, spacing_m=BEFORE_M, batch_tuples=BATCH)
        if isinstance(look, MapWindowSettings):  # windows of the map, in the squares kept out
            data = data.model_copy(update={"windows": look})
            tests_of = batches(window_map(city, look), data, heading, SEED, VALIDATION_STREAM)
        else:
            data = data.model_copy(update={"view": look})
            tests_of = batches(ground, data, heading, SEED, TRAINING_STREAM)
        tests = [tests_of[number] for number in range(-(-count // BATCH))]
        truth = torch.cat([batch.offset[:, 1] for batch in tests]).double().numpy()
        row("chance", heading, "", *figures(truth - np.median(truth, axis=0)))
        for entry in mine:
            with torch.inference_mode():
                pairs = [batch.tiles.unbind(1) for batch in tests]
                answers = [entry.model.answer(tiles, before).offset for before, tiles in pairs]
            off = torch.cat(answers).double().numpy() - truth
            row(entry.name, heading, entry.settled, *figures(off))
    print()


def alike(entries: list[Entry]) -> list[list[Entry]]:
    """The entries whose tiles are the same, together."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.model.heading, entry.look.model_dump_json()), []).append(entry)
    return list(groups.values())


def rendered_per_second(ground: VectorMap) -> float:
    """Tiles that are rendered per second of processor time."""
    rendered = RenderedBatches(ground, DataSettings(), "known", SEED, 0)
    rendered.worlds(0)
    start, count = time.process_time(), 10
    tiles = sum(rendered[number].angle.numel() for number in range(count))
    return tiles / (time.process_time() - start)


# --- Drives ---------------------------------------------------------------------------------------


def on_drive(city: City, path: Path, entries: list[Entry], arguments: argparse.Namespace) -> None:
    """Print the table of one drive."""
    drive = open_drive(path)
    assert drive.truth is not None
    head(drive.name, "heading", "", *COLUMNS)
    for mine in alike(entries):
        heading = mine[0].model.heading
        sequence = tiles_of(drive, city, heading, mine[0].look, arguments)
        truth = truth_in_map(drive.truth, city.raster, sequence.t_ns)[:, :2]
        inside = city.raster.inside(truth, MARGIN_M)
        if not inside.any():
            print(f"| no query's truth is inside the map of {city.name} |")
            continue
        middle = np.median(truth[inside], axis=0)
        row("chance", heading, "", *figures(truth[inside] - middle))
        for entry in [*mine, *adapted(city, drive, sequence, mine, arguments)]:
            poses = regress(entry.model, sequence, city.reference)
            row(entry.name, heading, "", *figures((poses[:, :2] - truth)[inside]))
            motion = sequence.odometry, sequence.segment, heading == "known"
            for label, settings in WINDOWS.items():
                held = window_poses(poses, *motion, settings, float(entry.model.deviation.mean()))
                row(entry.name, heading, label, *figures((held[:, :2] - truth)[inside]))
            if arguments.searched:
                row(
                    entry.name,
                    heading,
                    "searched",
                    *figures(searched(entry, city, drive, arguments)),
                )
    print()


def searched(entry: Entry, city: City, drive: Drive, arguments: argparse.Namespace) -> Array:
    """(N, 2) errors of the best aligned candidates of the search around a model's answers."""
    found = ml.localize(
        city,
        drive,
        method="mapnet",
        model=entry.folder,
        heading=entry.model.heading,
        submap_m=arguments.submap,
        every_m=arguments.every,
    )
    assert drive.truth is not None
    truth = truth_in_map(drive.truth, city.raster, found.t_ns)[:, :2]
    seen = city.raster.inside(truth, MARGIN_M) & found.stages["aligned"].has_pose
    return found.stages["aligned"].poses[seen, :2] - truth[seen]


def tiles_of(
    drive: Drive, city: City, heading: str, look: Look, arguments: argparse.Namespace
) -> TileSequence:
    """The drive's query tiles, kept in a file.

    The file's name follows from the settings that make the tiles, not from the code.
    """
    settings = load_recipe()
    every = look
    if isinstance(look, ViewSettings):  # models that read other channels share the tiles
        every = look.model_copy(update={"channels": get_args(Channel)})
    how = [settings.submap, settings.query, every]
    made = f"{[one.model_dump_json() for one in how]} {arguments.submap} {arguments.every}"
    made += f" {city.raster.convergence} {len(drive.scans.t_ns)}"
    digest = hashlib.sha256(made.encode()).hexdigest()[:12]
    path = arguments.work / f"{drive.name}_{heading}_{digest}.npz"
    if not path.is_file():
        asked = HeadingKnowledge.parse(heading)
        queries = Queries(arguments.submap, arguments.every, heading=asked)
        see(drive_tiles(city, drive, queries, settings), every).save(path)
    sequence = read_tile_sequence(path)
    names: list[str] = list(every.channels)
    chosen = [names.index(name) for name in look.channels]
    return replace(sequence, tiles=sequence.tiles[:, chosen])


def adapted(
    city: City,
    drive: Drive,
    sequence: TileSequence,
    entries: list[Entry],
    arguments: argparse.Namespace,
) -> Iterator[Entry]:
    """The models that are adapted to this drive; with --train, missing ones are adapted now."""
    assert city.folder is not None
    about = {"drive": drive.name, "submap_m": arguments.submap, "every_m": arguments.every}
    for entry in entries:
        if entry.name not in ADAPTABLE:
            continue
        known = [card.parent for card in (city.folder / "models").glob(f"*/{CARD}")]
        source = entry.card["weights"]["sha256"]
        wanted = about | {"from_sha256": source}
        fitting = [
            folder
            for folder in known
            if wanted.items() <= read_json(folder / CARD).get("adapted", {}).items()
        ]
        if not fitting and arguments.train:
            folder = city.folder / "models" / entry.name
            fitting = [adapt_to(city, folder, sequence, about, AdaptSettings())]
        for folder in fitting:
            model, card = read_model(folder, city, MapNet)
            yield Entry(f"{entry.name} adapted", folder, model, card)


def regress(model: MapNet, sequence: TileSequence, reference: Array) -> Array:
    """(Q, 3) poses of the tiles, each by itself.

    VLocNet also reads the tile before, where odometry connects the two.
    """
    tiles, follows = torch.from_numpy(sequence.tiles), torch.zeros(len(sequence.tiles), 1)
    follows[sequence.tuples(2)[:, 1]] = 1
    offsets, angles = [], []
    for part in torch.arange(len(tiles)).split(BATCH):
        with torch.inference_mode():
            offset, angle = model.pose(tiles[part])
            if isinstance(model, VLocNet):
                offset_after, angle_after = model.pose_after(tiles[part], tiles[part - 1])
                offset = torch.where(follows[part] > 0, offset_after, offset)
                angle = torch.where(follows[part, 0] > 0, angle_after, angle)
        offsets.append(offset.double().numpy())
        angles.append(angle.double().numpy())
    heading = wrap_angle(sequence.rotation + np.concatenate(angles))
    return np.column_stack([reference + np.concatenate(offsets), heading])


def figures(off: Array) -> list[str]:
    """The texts of ``COLUMNS`` for errors of (N, 2) metres."""
    metres = np.linalg.norm(off, axis=1)
    numbers = np.median(metres), metres.mean(), np.quantile(metres, 0.95)
    within = [f"{(metres <= limit).mean():.1%}" for limit in (5, 10, 20)]
    return [str(len(metres)), *(f"{number:.1f}" for number in numbers), *within]


if __name__ == "__main__":
    main()
