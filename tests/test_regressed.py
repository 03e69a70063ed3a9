"""The pose that a model regresses, before the map is searched."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_train import TINY

import maptile_loc as ml
from data_prep.errors import MaptileError
from data_prep.geometry import wrap_angle
from maptile_loc.cli.localize import command
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.vlocnet import VLocNet
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import load_recipe
from maptile_loc.render.view import ViewSettings, tile_from_query
from maptile_loc.report.page.html_report import write_report
from maptile_loc.types import HeadingKnowledge, Queries

ASKED = {"heading": "unknown", "submap_m": 30.0, "every_m": 40.0}


@pytest.fixture(scope="module")
def city_path(town_city, tmp_path_factory):
    """A copy of the town, for its models."""
    return shutil.copytree(town_city, tmp_path_factory.mktemp("models") / "city")


@pytest.fixture(scope="module")
def models(city_path):
    """A VLocNet and a posterior of the town, each trained for a few steps."""
    city = ml.open_city(city_path)
    recipe = TINY.model_dump()
    return {
        kind: train(
            city, ModelSettings(**recipe | {"name": f"few-{kind}", "kind": kind}), device="cpu"
        )
        for kind in ("posterior", "vlocnet")
    }


@pytest.fixture(scope="module")
def searched(city_path, town_drive, models):
    """The drive, localized with the posterior, its poses optimised, too."""
    model = models["posterior"]
    return ml.localize(city_path, town_drive, method="mapnet", model=model, pgo=True, **ASKED)


def test_the_models_own_pose_is_the_first_stage(searched) -> None:
    names = ["regressed", "pgo", "coarse", "aligned", "fused", "smoothed"]
    assert list(searched.stages) == names
    own = searched.stages["regressed"]
    assert own.has_pose.all()
    assert np.isfinite(own.covariance).all()
    assert ((own.score > 0) & (own.score <= 1)).all()
    assert not searched.stages["pgo"].localized.any()


def test_without_a_search_the_models_own_pose_is_the_result(
    city_path, town_drive, models, searched
) -> None:
    model = models["posterior"]
    options = ASKED | {"method": "mapnet", "model": model, "search": False}
    found = ml.localize(city_path, town_drive, **options)
    assert (list(found.stages), found.final) == (["regressed"], "regressed")
    np.testing.assert_array_equal(
        found.trajectory.poses, searched.stages["regressed"].poses, strict=True
    )
    np.testing.assert_array_equal(found.candidates[:, 0, :3], found.trajectory.poses)
    optimised = ml.localize(city_path, town_drive, pgo=True, **options)
    assert optimised.final == "pgo"
    np.testing.assert_array_equal(optimised.trajectory.poses, searched.stages["pgo"].poses)


def test_optimised_poses_move_as_the_odometry_does(city_path, town_drive, searched) -> None:
    """As the weight of the odometry grows, the steps between poses become those of the odometry."""
    drive = ml.open_drive(town_drive)
    moved = np.linalg.norm(np.diff(drive.odometry.at(searched.t_ns)[:, :2, 3], axis=0), axis=1)
    steps = {
        name: np.linalg.norm(np.diff(searched.stages[name].poses[:, :2], axis=0), axis=1)
        for name in ("regressed", "pgo")
    }
    off = {name: np.abs(step - moved).mean() for name, step in steps.items()}
    assert off["pgo"] < 0.5 * off["regressed"]


def test_vlocnet_reads_the_tile_before(city_path, town_drive, models) -> None:
    """From the second query on; the first has none."""
    city, drive = ml.open_city(city_path), ml.open_drive(town_drive)
    model, card = read_model(models["vlocnet"], city, VLocNet)
    found = ml.localize(
        city, drive, method="mapnet", model=models["vlocnet"], search=False, **ASKED
    )
    queries = Queries(30.0, 40.0, heading=HeadingKnowledge("unknown"))
    tiles = drive_tiles(city, drive, queries, load_recipe())
    view = ViewSettings.model_validate(card["view"])
    seen = torch.stack([tile_from_query(tile, view) for tile in tiles])
    with torch.inference_mode():
        first, turn = model.pose(seen[:1])
        after, turns = model.pose_after(seen[1:], seen[:-1])
    expected = city.reference + torch.cat([first, after]).double().numpy()
    heading = wrap_angle(tiles.rotation + torch.cat([turn, turns]).double().numpy())
    np.testing.assert_allclose(found.trajectory.poses[:, :2], expected, atol=1e-3)
    np.testing.assert_allclose(wrap_angle(found.trajectory.poses[:, 2] - heading), 0, atol=1e-5)
    assert not found.trajectory.localized.any()  # its errors are unknown


def test_what_has_no_regressed_pose_is_refused(city_path, town_drive, models) -> None:
    for options in ({"search": False}, {"pgo": True}):
        with pytest.raises(MaptileError, match="--method mapnet"):
            ml.localize(city_path, town_drive, **ASKED, **options)
        with pytest.raises(MaptileError, match="--online"):
            ml.localize(
                *(city_path, town_drive),
                **ASKED,
                **options,
                online=True,
                method="mapnet",
                model=models["posterior"],
            )


def test_the_stages_are_in_files_metrics_and_report(
    city_path, town_drive, models, tmp_path
) -> None:
    out = tmp_path / "out"
    words = [city_path, town_drive, "--out", out, "--method", "mapnet", "--search", "none", "--pgo"]
    words += ["--model", models["posterior"], "--heading", "unknown", "--every", 40]
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["regressed", "pgo"]
    assert metrics["stages"]["regressed"]["median_m"] > 0
    assert json.loads((out / "run.json").read_text())["search"] is False
    page = write_report(out).read_text()
    assert 'value="regressed"' in page
