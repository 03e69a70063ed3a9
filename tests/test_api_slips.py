"""Slips of users of the Python API: one clear line each, or what was meant."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import blocks_raster
from made_result import localization, path, times, truth_track

import maptile_loc as ml
from data_prep.city.raster import MapRaster
from data_prep.drive import GnssTrack, TruthTrack
from data_prep.geometry import Array
from data_prep.sources.clouds import open_clouds
from maptile_loc.config import load_settings
from maptile_loc.fuse.gnss_windows import OFF_MAP, gnss_counts, gnss_notes
from maptile_loc.recipe import LocalizeSettings, load_recipe, recipe_class
from maptile_loc.report.files import read_result
from maptile_loc.search.engine.area import searched_area
from maptile_loc.types import Queries

SECONDS = 1317042272.33
POINTS = np.ones((5, 3), np.float32)


@pytest.fixture(scope="module")
def city(town_city: Path) -> ml.City:
    return ml.open_city(town_city)


@pytest.fixture(scope="module")
def drive(town_drive: Path) -> ml.Drive:
    return ml.open_drive(town_drive)


@pytest.fixture(scope="module")
def found(city: ml.City, drive: ml.Drive) -> ml.Localization:
    return ml.localize(city, drive, every_m=150.0)


@pytest.fixture
def localizer(city: ml.City) -> ml.Localizer:
    return ml.Localizer(city, background=False)


@pytest.fixture(scope="module")
def raster() -> MapRaster:
    return blocks_raster(side_m=200.0)


# --- the order, and the kinds of arguments --------------------------------------------------------


@pytest.mark.parametrize("as_objects", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("call", [ml.localize, ml.adapt])
def test_city_and_drive_in_the_wrong_order_are_recognised(
    city: ml.City, drive: ml.Drive, call: Callable[..., object], as_objects: tuple[bool, bool]
) -> None:
    assert city.path is not None and drive.origin is not None
    first = drive if as_objects[0] else drive.origin.path
    second = city if as_objects[1] else city.path
    with pytest.raises(ml.MaptileError, match="Did you swap CITY and DRIVE"):
        call(first, second)


@pytest.mark.parametrize("value", [None, 5, ["a"]])
def test_what_is_no_city_and_no_drive_is_one_clear_line(
    city: ml.City, drive: ml.Drive, value: object, tmp_path: Path
) -> None:
    with pytest.raises(ml.MaptileError, match=r"^city: expected a City or a path, not"):
        ml.localize(value, drive)
    with pytest.raises(ml.MaptileError, match=r"^drive: expected a Drive or a path, not"):
        ml.localize(city, value)
    with pytest.raises(ml.MaptileError, match=r"^city: expected a City or a path, not"):
        ml.simulate(value, tmp_path / "s")


def test_two_cities_or_two_drives_are_one_clear_line(city: ml.City, drive: ml.Drive) -> None:
    with pytest.raises(ml.MaptileError, match=r"^drive: expected a Drive or a path, not City"):
        ml.localize(city, city)
    with pytest.raises(ml.MaptileError, match=r"^city: expected a City or a path, not Drive"):
        ml.localize(drive, drive)


def test_a_lone_text_is_a_tuple_of_one(city: ml.City, tmp_path: Path) -> None:
    assert load_recipe(overrides="fuse.trust=0.95") == load_recipe(overrides=["fuse.trust=0.95"])
    settings = load_settings(LocalizeSettings, {}, "search.near_m=7")
    assert settings.search.near_m == 7
    with pytest.raises(ml.MaptileError, match="--near 'no such street': nothing on this map"):
        searched_area(city, None, "no such street", 40.0)
    with pytest.raises(ml.MaptileError, match="unknown key 'sede'"):
        ml.simulate(city, tmp_path / "s", overrides="sede=1")


def test_a_lone_name_is_a_tuple_of_one(city: ml.City, drive: ml.Drive) -> None:
    assert drive.origin is not None
    with pytest.raises(ml.MaptileError, match="--near 'no such street': nothing on this map"):
        ml.localize(city, drive, near="no such street")
    with pytest.raises(ml.MaptileError, match="no sensor lms"):
        ml.open_drive(drive.origin.path, sensors="lms")
    with pytest.raises(ml.MaptileError, match=r"--columns is for \.bin"):
        ml.open_drive(drive.origin.path, columns="xyz")
    with pytest.raises(ml.MaptileError, match="nothing on this map has that name"):
        ml.Localizer(city, near="no such street")


@pytest.mark.parametrize("as_path", [True, False])
def test_one_more_city_is_a_tuple_of_one(
    city: ml.City, drive: ml.Drive, as_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maptile_loc.learn import loop

    seen: list[object] = []
    monkeypatch.setattr(loop, "train", lambda *arguments: seen.append(arguments[5]))
    ml.train(city, config="retrieval", others=str(city.path) if as_path else city)
    assert [type(one) for one in seen[0]] == [ml.City]


@pytest.mark.parametrize("heading", [90, True, 0, 12.5, "north", ["known"]])
def test_a_heading_that_is_none_names_the_three(
    city: ml.City, drive: ml.Drive, heading: object
) -> None:
    for call in (
        lambda: ml.localize(city, drive, heading=heading),
        lambda: ml.Localizer(city, heading=heading),
        lambda: ml.adapt(city, drive, heading=heading),
    ):
        with pytest.raises(ml.MaptileError, match="expected known, unknown or prior:DEG"):
            call()


@pytest.mark.parametrize(
    "prior", [(49.01, 8.42), "49.01,8.42,100", 49.01, (49.01, 8.42, None), (1.0, 2.0, 3.0, 4.0)]
)
def test_a_prior_that_is_no_circle_says_what_one_is(city: ml.City, prior: object) -> None:
    with pytest.raises(ml.MaptileError, match=r"latitude, longitude \(degrees\) and a radius"):
        searched_area(city, prior, (), 40.0)


def test_a_drive_is_no_truth(found: ml.Localization, drive: ml.Drive, tmp_path: Path) -> None:
    for call in (
        lambda: found.evaluate(drive),
        lambda: ml.evaluate(found, drive),
        lambda: found.save(tmp_path / "o", drive),
        lambda: found.evaluate(str(tmp_path)),
    ):
        with pytest.raises(ml.MaptileError, match=r"expected the truth, drive\.truth, not a"):
            call()
    assert not (tmp_path / "o").exists()
    with pytest.raises(ml.MaptileError, match="the localized drive comes first, then its truth"):
        ml.evaluate(drive.truth, found)


# --- live -----------------------------------------------------------------------------------------


def test_an_array_is_no_scan(localizer: ml.Localizer) -> None:
    with pytest.raises(ml.MaptileError, match=r"ml\.ScanBlock\.single\(t_ns, points\)"):
        localizer.add_scan(POINTS)


@pytest.mark.parametrize("t_ns", [SECONDS, np.float64(5.0), float("nan"), "5", None, 2**63])
def test_a_time_that_is_no_number_of_nanoseconds_is_refused(
    localizer: ml.Localizer, t_ns: object
) -> None:
    for call in (
        lambda: ml.ScanBlock.single(t_ns, POINTS),
        lambda: localizer.add_odometry(t_ns, np.eye(4)),
        lambda: localizer.add_heading(t_ns, 0.0),
        lambda: localizer.add_gnss(t_ns, 49.0, 8.4),
    ):
        with pytest.raises(ml.MaptileError, match=r"a time is nanoseconds as a whole number"):
            call()


def test_scans_with_times_in_seconds_are_refused(localizer: ml.Localizer) -> None:
    scan = replace(ml.ScanBlock.single(0, POINTS), t_ns=np.array([SECONDS]))
    with pytest.raises(ml.MaptileError, match=r"of seconds: int\(t \* 1e9\)"):
        localizer.add_scan(scan)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint64])
def test_whole_numbers_of_all_kinds_are_times(
    localizer: ml.Localizer, kind: Callable[[int], int]
) -> None:
    localizer.add_odometry(kind(1), np.eye(4))
    localizer.add_heading(kind(1), 0.0)
    localizer.add_gnss(kind(1), 49.0, 8.4)
    assert localizer.add_scan(ml.ScanBlock.single(kind(2), POINTS)) is not None


# --- a result is a value --------------------------------------------------------------------------


def check_equal(one: ml.Localization, other: ml.Localization) -> None:
    assert one.settings == other.settings
    assert type(one.settings) is type(other.settings)
    assert one.record == other.record and one.notes == other.notes
    assert list(one.stages) == list(other.stages)
    for stage, estimates in one.stages.items():
        np.testing.assert_array_equal(estimates.poses, other.stages[stage].poses)
    np.testing.assert_array_equal(np.asarray(one.raster.data), np.asarray(other.raster.data))


def test_a_result_comes_back_from_a_pickle(found: ml.Localization) -> None:
    check_equal(found, pickle.loads(pickle.dumps(found)))


def test_a_fresh_process_reads_the_pickle(found: ml.Localization, tmp_path: Path) -> None:
    file = tmp_path / "found.pkl"
    file.write_bytes(pickle.dumps(found))
    code = (
        "import pickle, sys\n"
        "found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(found)\n"
        "pickle.dump(found, open(sys.argv[1], 'wb'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(found)
    check_equal(found, pickle.loads(file.read_bytes()))


def test_the_recipe_class_is_an_attribute_of_its_module() -> None:
    from maptile_loc import recipe

    assert getattr(recipe, recipe_class().__name__) is recipe_class()
    with pytest.raises(AttributeError, match="LocaliseRecipe"):
        recipe.LocaliseRecipe  # noqa: B018


# --- truth and GNSS off the map -------------------------------------------------------------------


def generic(folder: Path, truth: str) -> Path:
    """A generic drive with one cloud and a truth.csv of one row."""
    (folder / "clouds").mkdir(parents=True)
    header = "ply\nformat ascii 1.0\nelement vertex 1\n"
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    cloud = f"{header}{axes}end_header\n1 2 3\n"
    (folder / "clouds" / "1317042272335337762.ply").write_text(cloud, "ascii")
    (folder / "truth.csv").write_text(
        f"t_ns,latitude,longitude,heading_deg\n1317042272335337762,{truth}\n", "ascii"
    )
    return folder


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        ("842.29,8.4,0", r"truth\.csv: latitude is 842\.29, expected degrees from -90 to 90"),
        ("49.0,-180.5,0", r"truth\.csv: longitude is -180\.5, expected degrees from -180 to 180"),
    ],
)
def test_truth_out_of_range_is_refused(tmp_path: Path, truth: str, says: str) -> None:
    with pytest.raises(ml.MaptileError, match=says):
        open_clouds(generic(tmp_path / "d", truth))


def test_truth_at_the_ends_of_the_range_is_read(tmp_path: Path) -> None:
    drive = open_clouds(generic(tmp_path / "d", "-90,180,0"))
    assert drive.truth is not None and drive.truth.latitude.tolist() == [-90.0]


def swapped(track: TruthTrack) -> TruthTrack:
    """Latitude and longitude in the wrong order."""
    return replace(track, latitude=track.longitude, longitude=track.latitude)


def half_swapped(track: TruthTrack) -> TruthTrack:
    """The second half in the wrong order."""
    late = np.arange(len(track.t_ns)) >= len(track.t_ns) // 2
    return replace(
        track,
        latitude=np.where(late, track.longitude, track.latitude),
        longitude=np.where(late, track.latitude, track.longitude),
    )


def off(track: TruthTrack, kilometres: float) -> TruthTrack:
    """A truth farther to the south."""
    return replace(track, latitude=track.latitude - kilometres / 111.2)


@pytest.mark.parametrize(
    ("change", "outside", "noted"),
    [
        (lambda track: track, 0, False),
        (lambda track: off(track, 5.0), 12, False),
        (lambda track: off(track, 60.0), 12, True),
        (swapped, 12, True),
        (lambda track: replace(track, latitude=track.latitude + 800.0), 12, True),
        (half_swapped, 6, False),
    ],
)
def test_truth_off_the_map_is_noted(
    raster: MapRaster,
    change: Callable[[TruthTrack], TruthTrack],
    outside: int,
    noted: bool,
    tmp_path: Path,
) -> None:
    poses: Array = path(raster, 12)
    found = localization(raster, poses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = found.save(tmp_path / "o", change(truth_track(raster, times(12), poses)))
    assert metrics is not None
    assert (f"the truth lies {OFF_MAP}" in metrics["notes"]) == noted
    assert not any("no truth at their times" in note for note in metrics["notes"])
    assert metrics["outside_queries"] == outside
    assert read_result(tmp_path / "o", raster).final == found.final


def test_truth_at_other_times_is_not_called_off_the_map(raster: MapRaster) -> None:
    poses = path(raster, 12)
    late = truth_track(raster, times(12) + 10**15, poses)
    notes = localization(raster, poses).evaluate(late)["notes"]
    assert notes == ["12 of 12 queries are left out: no truth at their times"]


UNUSED = "GNSS was used at no query"
CLOCK = "its GNSS covers none of the queries; are both on the same clock?"
LEFT_OUT = "GNSS contradicts the walls at {} of 3 queries: left out there"


@pytest.mark.parametrize(
    ("used", "left_out", "notes"),
    [
        ([0, 0, 0], [0, 0, 0], (CLOCK, UNUSED)),
        ([0, 0, 0], [1, 1, 1], (UNUSED, LEFT_OUT.format(3))),
        ([0, 0, 0], [1, 0, 0], (UNUSED, LEFT_OUT.format(1), "no GNSS at 2 of 3 queries")),
        ([1, 0, 0], [0, 0, 0], ("no GNSS at 2 of 3 queries",)),
        ([1, 1, 1], [0, 0, 0], ()),
    ],
)
def test_gnss_that_is_never_used_is_noted(
    raster: MapRaster, used: list[int], left_out: list[int], notes: tuple[str, ...]
) -> None:
    latitude, longitude = raster.projection.inverse(raster.centre[None])
    track = GnssTrack(times(1), latitude, longitude, np.ones(1))
    counts = gnss_counts(np.array(used, bool), np.array(left_out, bool))
    assert gnss_notes(counts, track, raster) == notes
    assert gnss_notes({}, track, raster) == gnss_notes(counts, None, raster) == ()


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("reached", [False, True])
def test_gnss_off_the_map_is_noted(
    city: ml.City, drive: ml.Drive, online: bool, reached: bool
) -> None:
    assert drive.gnss is not None
    gnss = replace(drive.gnss, latitude=drive.gnss.longitude, longitude=drive.gnss.latitude)
    if not reached:  # by the map frame
        still = np.zeros(len(gnss.t_ns))
        gnss = replace(gnss, latitude=still, longitude=still + 99.0)
    seen = city.raster.projection.forward(gnss.latitude, gnss.longitude)
    assert np.isfinite(seen).all() == reached
    wrong = replace(drive, gnss=gnss)
    found = ml.localize(city, wrong, every_m=150.0, gnss=True, online=online)
    assert f"the GNSS lies {OFF_MAP}" in found.notes
    assert CLOCK not in found.notes


@pytest.mark.parametrize(
    ("slip", "says"),
    [
        ({"submap_m": "50"}, "metres of travel"),
        ({"every_m": None}, "metres of travel"),
        ({"submap_m": float("nan")}, "metres of travel"),
        ({"seed": "1"}, "expected a whole number"),
        ({"seed": -1}, "expected a whole number"),
        ({"seed": 0.5}, "expected a whole number"),
    ],
)
def test_lengths_and_seeds_that_are_none(slip: dict[str, Any], says: str) -> None:
    with pytest.raises(ml.MaptileError, match=says):
        Queries(**slip)
    Queries(np.float32(50), 20, seed=np.int64(3))
