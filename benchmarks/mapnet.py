"""How fast training tiles are rendered, and how far a city's models are off on renders.

The tests are rendered along the city's roads from another seed: other places, other worlds, other
noise than in training. Chance is the best constant answer.

    python benchmarks/mapnet.py CITY
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from stamp import stamp

from data_prep.city import City, open_city
from maptile_loc.config import load_settings
from maptile_loc.datamodule import Batch, DataSettings, Ground, RenderedBatches, training_ground
from maptile_loc.models.published import read_model
from maptile_loc.train import ModelSettings

SEED = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("city", type=Path)
    parser.add_argument("--tiles", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    city = open_city(arguments.city)
    ground = training_ground(city)
    print(stamp(), end="\n\n")
    print(f"Rendering: {rendered_per_second(ground):.0f} tiles/s\n")
    print("| model | heading | minutes | steps | median m | mean m | p95 m | within 20 m |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in sorted(card.parent for card in arguments.city.glob("models/*/model.json")):
        report(folder, city, ground, arguments.tiles)


def rendered_per_second(ground: Ground) -> float:
    batches = RenderedBatches(ground, DataSettings(), "known", SEED, 0)
    batches.worlds(0)
    start, count = time.perf_counter(), 10
    tiles = sum(batches[number].angle.numel() for number in range(count))
    return tiles / (time.perf_counter() - start)


def report(folder: Path, city: City, ground: Ground, tiles: int) -> None:
    model, card = read_model(folder, city)
    settings = load_settings(ModelSettings, folder / "config.yaml")
    data = settings.data.model_copy(update={"tuple_size": 1, "batch_tuples": 100})
    batches = RenderedBatches(ground, data, settings.heading, SEED, 0)
    tests = [Batch(*batches[number]) for number in range(-(-tiles // 100))]
    with torch.inference_mode():
        found = torch.cat([model.pose(batch.tiles.flatten(0, 1))[0] for batch in tests])
    truth = torch.cat([batch.offset.flatten(0, 1) for batch in tests])
    taken = card["training"]
    about = f"{settings.heading} | {taken['seconds'] / 60:.1f} | {taken['steps']}"
    print(f"| {settings.name} | {about} | {row(found - truth)} |")
    print(f"| chance | {settings.heading} | | | {row(truth - truth.median(dim=0).values)} |")


def row(error: torch.Tensor) -> str:
    metres = error.norm(dim=1)
    numbers = (metres.median(), metres.mean(), metres.quantile(0.95))
    within = (metres < 20).float().mean()
    return " | ".join([*(f"{float(number):.1f}" for number in numbers), f"{float(within):.1%}"])


if __name__ == "__main__":
    main()
