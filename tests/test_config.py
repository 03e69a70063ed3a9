from __future__ import annotations

import subprocess
import sys

import pytest

from data_prep.errors import MaptileError
from data_prep.settings import Settings
from maptile_loc.config import config_folder, load_settings, save_settings
from maptile_loc.device import DEVICES, pick_device
from maptile_loc.recipe import load_recipe, recipe_class


class Inner(Settings):
    batch_size: int = 64


class Outer(Settings):
    rate: float = 1e-4
    train: Inner = Inner()


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_values_and_overrides(recipe):
    path = recipe("rate: 0.5\ntrain:\n  batch_size: 7\n")
    assert load_settings(Outer, path) == Outer(rate=0.5, train=Inner(batch_size=7))
    assert load_settings(Outer, path, ["train.batch_size=9"]).train.batch_size == 9
    assert load_settings(Outer, recipe(""), ["train.batch_size=9"]).rate == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  batch_sise: 3\n", "did you mean 'train.batch_size'"),
        ("rat: 3\n", "did you mean 'rate'"),
        ("rate: fast\n", "rate: .*number.*'fast'"),
        ("train: 3\n", "train"),
        ("- 1\n", "expected keys and values"),
        ("rate: [1,\n", "not readable as YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_says_where(recipe, text, message):
    with pytest.raises(MaptileError, match=message) as error:
        load_settings(Outer, recipe(text))
    assert "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_may_be_text_or_a_mapping(recipe, monkeypatch):
    path = recipe("rate: 0.5\n")
    assert load_settings(Outer, str(path)) == load_settings(Outer, path) == Outer(rate=0.5)
    given = {"train": {"batch_size": 7}}
    settings = load_settings(Outer, given, ["train.batch_size=9", "rate=0.5"])
    assert settings == Outer(rate=0.5, train=Inner(batch_size=9))
    assert given == {"train": {"batch_size": 7}}
    with pytest.raises(MaptileError, match=r"^settings: unknown key 'rat'; did you mean 'rate'"):
        load_settings(Outer, {"rat": 3})


@pytest.mark.parametrize("override", ["rate", "=3", "rate.x=3", "rate=[1"])
def test_a_wrong_override_is_refused(recipe, override):
    with pytest.raises(MaptileError, match="--set"):
        load_settings(Outer, recipe("rate: 1.0\n"), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "rat=3",
            r"^--set rat=3 \(recipe .*recipe\.yaml\): unknown key 'rat'; did you mean 'rate'",
        ),
        ("train.batch_size=x", r"^--set train\.batch_size=x \(recipe .*integer"),
        ("train=3", r"^--set train=3 \(recipe "),
    ],
)
def test_an_override_that_does_not_fit_is_named(recipe, override, message):
    """The recipe file itself has no fault."""
    with pytest.raises(MaptileError, match=message):
        load_settings(Outer, recipe("rate: 1.0\n"), [override])


def test_a_mistyped_recipe_name_gets_a_hint():
    with pytest.raises(MaptileError, match="did you mean 'localize'"):
        load_settings(recipe_class(), "localise")
    with pytest.raises(MaptileError, match="did you mean 'literature/crosslocate'"):
        load_settings(recipe_class(), "literature/crosslocat")
    with pytest.raises(MaptileError, match="no such recipe file"):
        load_settings(recipe_class(), "nowhere.yaml")


def test_saved_settings_load_again(tmp_path):
    settings = Outer(rate=0.25, train=Inner(batch_size=3))
    save_settings(settings, tmp_path / "out.yaml")
    assert load_settings(Outer, tmp_path / "out.yaml") == settings


def test_every_shipped_recipe_fits_its_settings():
    from data_prep.city.folder import CitySettings
    from data_prep.simulate.record import SimulateSettings
    from maptile_loc.learn.adapt import AdaptSettings
    from maptile_loc.learn.settings import ModelSettings
    from maptile_loc.learn.teacher import TeachSettings
    from maptile_loc.towns.locate import LocateSettings

    kinds = {"localize": recipe_class(), "simulate": SimulateSettings}
    kinds |= {"mapnet_plus": AdaptSettings, "adapt_walls": TeachSettings, "locate": LocateSettings}
    models = (
        "mapnet",
        "posenet",
        "posterior",
        "tiles",
        "cells",
        "retrieval",
        "vlocnet",
        "panorama",
    )
    kinds |= dict.fromkeys(models, ModelSettings)
    recipes = sorted(config_folder().glob("*.yaml"))
    assert {path.stem for path in recipes} >= {*kinds, "city", "oxford"}
    for path in recipes:
        load_settings(kinds.get(path.stem, CitySettings), path)
    literature = sorted((config_folder() / "literature").glob("*.yaml"))
    names = [load_settings(ModelSettings, f"literature/{path.stem}").name for path in literature]
    assert len(names) == len(set(names)) >= 10


def test_the_localize_recipe_states_the_defaults():
    assert load_recipe() == recipe_class()()


def test_devices():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in DEVICES
    with pytest.raises(MaptileError, match="there are auto, cpu, cuda"):
        pick_device("tpu")


def test_devices_are_known_without_torch():
    code = "import sys, maptile_loc.device; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
