from __future__ import annotations

import json
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT
from small_city import small_city

import maptile_loc.models
from data_prep.errors import MaptileError
from maptile_loc.config import config_folder, load_settings
from maptile_loc.learn.settings import ModelSettings, Recipe
from maptile_loc.models import kinds
from maptile_loc.models.parts.kind import ModelKind

PLUGIN = '''
from typing import Any
import torch
from data_prep.settings import Settings
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.tile_model import Batch, TileModel

class Centre(TileModel):
    """Always the same offset."""

    def __init__(self, start: float, **common: Any) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        self.offset = torch.nn.Parameter(torch.full((2,), start))

    def pose(self, tiles):
        return self.offset.expand(len(tiles), 2), torch.zeros(len(tiles))

    def objective(self, batch: Batch):
        return (self.offset - batch.offset).abs().mean()

class CentreRecipe(Settings):
    start: float = 1.0

def make(recipe: CentreRecipe, blueprint: Blueprint) -> Centre:
    return Centre(start=recipe.start, **blueprint.common)

KIND = ModelKind("centre", "mapnet", Centre, CentreRecipe, make)
'''

TRAIN_PLUGIN = """
import json, sys
from pathlib import Path
from data_prep.city.folder import open_city
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.tile_model import TileModel

city = open_city(Path(sys.argv[1]))
settings = load_settings(ModelSettings, sys.argv[2])
folder = train(city, settings, device="cpu")
model, card = read_model(folder, city, TileModel)
print(json.dumps([type(model).__name__, card["kind"], card["model"]["start"], settings.start]))
"""

RECIPE = """
kind: centre
name: centre
start: 3.5
network: {width: 4, blocks: [1], features: 8}
data: {batch_tuples: 2, worlds: 1, validation_tuples: 2, workers: 0, view: {size_px: 16, rays: 64}}
training: {steps: 2, epoch_steps: 1}
"""


def test_every_file_of_the_folder_is_a_kind() -> None:
    modules = pkgutil.iter_modules(maptile_loc.models.__path__)
    names = [module.name for module in modules if not module.ispkg]
    exported = [import_module(f"maptile_loc.models.{name}").KIND for name in names]
    assert all(isinstance(kind, ModelKind) for kind in exported)
    assert len({kind.name for kind in exported}) == len({kind.network for kind in exported})
    assert {kind.name: kind for kind in exported} == kinds()
    assert set(kinds()) >= {
        "mapnet",
        "posterior",
        "vlocnet",
        "cells",
        "retrieval",
        "geocells",
        "mvmf",
        "panorama",
    }


def test_shared_keys_of_recipes_agree() -> None:
    common = set(Recipe.model_fields)
    for one in kinds().values():
        assert not common & set(one.recipe.model_fields)
        for other in kinds().values():
            for key in set(one.recipe.model_fields) & set(other.recipe.model_fields):
                first, second = one.recipe.model_fields[key], other.recipe.model_fields[key]
                assert (first.annotation, first.default) == (second.annotation, second.default)


def test_a_recipe_has_the_keys_of_all_kinds() -> None:
    plain = ModelSettings().model_dump()
    for kind in kinds().values():
        assert set(kind.recipe.model_fields) <= set(plain)
    assert (plain["relative"], plain["grid_m"]) == (True, 10.0)
    assert plain["cells"]["partitions"] == 3
    assert plain["retrieval"]["length"] == 256


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kind=mapnett", "kind: .*there are .*mapnet"),
        ("grid_m=-1", "grid_m: .*greater than 0"),
        ("cells.partitions=0", r"cells\.partitions"),
        ("cels.partitions=2", "did you mean 'cells'"),
        ("grid=3", "did you mean 'grid_m'"),
        ("relative=maybe", "relative"),
    ],
)
def test_a_wrong_key_of_a_kind_is_one_line(override: str, message: str) -> None:
    with pytest.raises(MaptileError, match=message):
        load_settings(ModelSettings, "mapnet", [override])


def test_each_kind_has_a_shipped_recipe() -> None:
    literature = [f"literature/{path.stem}" for path in config_folder().glob("literature/*.yaml")]
    in_literature = {load_settings(ModelSettings, name).kind: name for name in literature}
    for name in kinds():
        recipe = name if (config_folder() / f"{name}.yaml").is_file() else in_literature[name]
        settings = load_settings(ModelSettings, recipe)
        assert settings.kind == name
        own = settings.own()
        assert type(own) is kinds()[name].recipe


def test_a_saved_recipe_is_the_same_recipe() -> None:
    settings = load_settings(ModelSettings, "posterior", ["grid_m=7", "cells.levels=2"])
    again = ModelSettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    assert again.own().model_dump() == {"relative": True, "grid_m": 7.0, "reach_m": 25.0}


def test_a_new_file_is_a_new_kind(tmp_path: Path) -> None:
    for package in ("data_prep", "maptile_loc"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package)
    (tmp_path / "code" / "maptile_loc" / "models" / "centre.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arguments = [str(small_city(tmp_path).folder), str(tmp_path / "recipe.yaml")]
    command = [sys.executable, "-W", "ignore", "-c", TRAIN_PLUGIN, *arguments]
    done = subprocess.run(command, cwd=tmp_path / "code", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["Centre", "centre", 3.5, 3.5]


def test_inference_does_not_import_training() -> None:
    code = (
        "import sys\n"
        "import maptile_loc.models, maptile_loc.pipeline\n"
        "import maptile_loc.search.cells, maptile_loc.search.mapnet, maptile_loc.search.retrieval\n"
        "maptile_loc.models.kinds()\n"
        "print([name for name in sys.modules if name.startswith('maptile_loc.learn')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
