"""What each channel of a tile is worth to a regressor; prints markdown tables.

Run: python benchmarks/channels.py CITY [DRIVE ...] [--steps STEPS] [--work FOLDER]
                                   [--submap METRES] [--every METRES]

Trains the recipe ``posterior`` for STEPS steps on each set of channels; the models are kept in
CITY/models/channels-NAME. *walls* has walls and what is observed, *ground* ground and what is
observed, *roads* road evidence and what is observed. Tables as of ``family.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from family import models, on_drive, on_renders
from stamp import stamp

from data_prep.city.folder import open_city
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.models.parts.published import CARD

CHANNELS = {
    "walls": "[wall, observed]",
    "ground": "[ground, observed]",
    "roads": "[road, observed]",
    "all": "[wall, ground, observed, road]",
}
"""Sets of channels that are compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path)
    parser.add_argument("drives", type=Path, nargs="*")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--work", type=Path, default=Path("family"))
    parser.add_argument("--submap", type=float, default=50.0)
    parser.add_argument("--every", type=float, default=20.0)
    arguments = parser.parse_args()
    arguments.train, arguments.searched = None, False
    city = open_city(arguments.city)
    names = tuple(f"channels-{name}" for name in CHANNELS)
    for name, channels in zip(names, CHANNELS.values(), strict=True):
        if not (arguments.city / "models" / name / CARD).is_file():
            changes = [f"name={name}", f"data.view.channels={channels}"]
            changes.append(f"training.steps={arguments.steps}")
            train(city, load_settings(ModelSettings, "posterior", changes))
    torch.set_num_threads(1)
    print(stamp(), end="\n\n")
    entries = list(models(city, names))
    on_renders(city, entries, 2000)
    for path in arguments.drives:
        on_drive(city, path, entries, arguments)


if __name__ == "__main__":
    main()
