"""GNSS in files: gnss.csv, NMEA, gps.csv and bags."""

from __future__ import annotations

from functools import reduce
from operator import xor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bag import BagMaker
from reader_checks import damaged, fuzz, read_damaged
from test_rosbag import SCANS, STEP_NS, T0, cloud_of

from data_prep.drive import GnssTrack
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.formats.gnss_files import read_gnss
from data_prep.sources.formats.nmea import parse, read_nmea

ROWS = [(T0 + n * STEP_NS, 51.76 + n * 1e-5, -1.25 - n * 2e-5, 2.0 + n) for n in range(4)]
# The two sentences that descriptions of NMEA 0183 show.
GGA = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"
RMC = "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A"


def sentence(content: str) -> str:
    return f"${content}*{reduce(xor, content.encode(), 0):02X}"


def rmc(clock: str, day: str, minutes: str = "07.038", status: str = "A") -> str:
    return sentence(f"GNRMC,{clock},{status},48{minutes},N,01131.000,W,22.4,84.4,{day},,,A")


def gga(clock: str, minutes: str = "07.038", quality: int = 1) -> str:
    return sentence(f"GNGGA,{clock},48{minutes},S,01131.000,E,{quality},08,1.2,545.4,M,46.9,M,,")


def table(folder: Path, header: str = "t_ns,latitude,longitude,std_m", order=(0, 1, 2, 3)) -> Path:
    lines = [",".join(str(row[column]) for column in order) for row in ROWS]
    file = folder / "gnss.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def check(track: GnssTrack | None, rows=ROWS) -> None:
    assert track is not None
    columns = track.t_ns, track.latitude, track.longitude, track.std_m
    for found, expected in zip(columns, zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive of two clouds, to which GNSS is added."""
    folder = tmp_path / "drive"
    (folder / "clouds").mkdir(parents=True)
    for name in (ROWS[0][0], ROWS[3][0]):
        lines = ["ply", "format ascii 1.0", "element vertex 1"]
        lines += [f"property float {axis}" for axis in "xyz"] + ["end_header", "1 2 3"]
        (folder / "clouds" / f"{name}.ply").write_text("\n".join(lines) + "\n")
    return folder


# --- gnss.csv ------------------------------------------------------------------------------------


def test_the_table_is_read_whatever_the_order_and_case_of_its_columns(tmp_path: Path) -> None:
    notes: list[str] = []
    check(read_gnss(table(tmp_path), notes))
    check(read_gnss(table(tmp_path, " STD_M , Longitude,T_NS,LATITUDE", (3, 2, 0, 1)), notes))
    check(read_gnss(table(tmp_path, "\ufefft_ns,latitude,longitude,std_m"), notes))
    assert not notes


def test_the_accuracy_may_be_missing_and_rows_without_a_position_are_left_out(
    tmp_path: Path,
) -> None:
    file = tmp_path / "gnss.csv"
    file.write_text(
        f"t_ns,latitude,longitude,std_m\n{T0},51,-1,\n{T0 + 1},,,2\n{T0 + 2},nan,nan,2\n"
        f"{T0 + 3},51,-1,-4\n{T0 + 4},51,-1,inf\n{T0 + 5}\n"
    )
    track = read_gnss(file, [])
    assert track is not None
    assert track.t_ns.tolist() == [T0, T0 + 3, T0 + 4]
    assert np.isnan(track.std_m).all()
    file.write_text("t_ns,latitude,longitude\n5,51,-1\n")
    track = read_gnss(file, [])
    assert track is not None
    assert np.isnan(track.std_m).all()
    file.write_text("t_ns,latitude,longitude\n")
    assert read_gnss(file, []) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1: no column t_ns, latitude, longitude"),
        ("t_ns,latitude,lon\n1,2,3\n", "line 1: no column longitude"),
        ("t_ns,latitude,longitude\n1,2,3\n2,91,3\n", "line 3: latitude is '91', expected degrees"),
        ("t_ns,latitude,longitude\n1,2,180.1\n", "line 2: longitude is '180.1'"),
        ("t_ns,latitude,longitude\n1.5,2,3\n", "line 2: t_ns is '1.5', expected a whole number"),
        ("t_ns,latitude,longitude\n-1,2,3\n", "line 2: t_ns is '-1'"),
        (f"t_ns,latitude,longitude\n{2**63},2,3\n", "line 2: t_ns is"),
        ("t_ns,latitude,longitude\n1,here,3\n", "line 2: latitude is 'here', expected a number"),
        ("t_ns,latitude,longitude,std_m\n1,2,3,good\n", "line 2: std_m is 'good'"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "gnss.csv"
    file.write_text(content)
    with pytest.raises(MaptileError, match=r"gnss\.csv") as error:
        read_gnss(file, [])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_in_any_order_are_sorted_and_double_ones_counted(tmp_path: Path) -> None:
    file = tmp_path / "gnss.csv"
    times = [T0 + 2, T0 + 1, T0 + 1, T0 + 3]
    file.write_text("t_ns,latitude,longitude\n" + "".join(f"{t},{t - T0},3\n" for t in times))
    notes: list[str] = []
    track = read_gnss(file, notes)
    assert track is not None
    assert track.latitude.tolist() == [1, 2, 3]
    assert "1 of 4 rows" in notes[0]


def test_a_generic_drive_has_the_table_or_a_log(drive: Path) -> None:
    assert open_drive(drive).gnss is None
    (drive / "walk.NMEA").write_text(f"{RMC}\n")
    track = open_drive(drive).gnss
    assert track is not None
    np.testing.assert_allclose(track.latitude, 48 + 7.038 / 60)
    table(drive)
    check(open_drive(drive).gnss)
    (drive / "gnss.csv").unlink()
    (drive / "b.nmea").write_text(f"{RMC}\n")
    with pytest.raises(MaptileError, match="several logs"):
        open_drive(drive)


@fuzz(60)
@given(choices=st.data())
def test_damage_to_the_table_gives_a_drive_or_one_clear_line(
    drive: Path, choices: st.DataObject
) -> None:
    found = read_damaged(drive, table(drive), choices)
    if found is not None and found[0].gnss is not None:
        check_sound(found[0].gnss)


def check_sound(track: GnssTrack) -> None:
    assert (np.diff(track.t_ns) > 0).all()
    assert (np.abs(track.latitude) <= 90).all()
    assert (np.abs(track.longitude) <= 180).all()
    assert (np.isnan(track.std_m) | (track.std_m > 0)).all()


# --- NMEA ----------------------------------------------------------------------------------------


def test_the_sentences_of_textbooks(tmp_path: Path) -> None:
    file = tmp_path / "log.nmea"
    file.write_text(f"{RMC}\r\n{GGA}\r\n")
    track = read_nmea(file, [])
    assert track is not None
    stamp = np.datetime64("1994-03-23T12:35:19", "ns").astype(np.int64)
    assert track.t_ns.tolist() == [stamp]
    np.testing.assert_allclose(track.latitude, 48 + 7.038 / 60)
    np.testing.assert_allclose(track.longitude, 11 + 31 / 60)
    np.testing.assert_allclose(track.std_m, 0.9 * 5)  # of the GGA sentence


def test_south_and_west_are_negative() -> None:
    one, other = parse(rmc("000000.25", "010126")), parse(gga("000000.5"))
    assert one is not None
    assert other is not None
    assert one.longitude == -(11 + 31 / 60)
    assert other.latitude == -(48 + 7.038 / 60)
    assert (one.clock_ns, other.clock_ns) == (250_000_000, 500_000_000)


@pytest.mark.parametrize(
    "line",
    [
        GGA.replace("*47", "*48"),
        GGA.replace("4807", "4808"),
        GGA[:-3],
        GGA[:20],
        sentence("GPGGA,12"),
        sentence("GPGGA,253519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"),
        sentence("GPVTG,054.7,T,034.4,M,005.5,N,010.2,K"),
        "",
        "hello",
    ],
)
def test_other_sentences_and_wrong_checksums_say_nothing(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    "line",
    [
        gga("120000", quality=0),
        rmc("120000", "010126", status="V"),
        gga("120000", minutes="60.000"),
        sentence("GPGGA,120000,,,,,0,00,99.9,,,,,,"),
        sentence("GPGGA,120000,9907.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"),
    ],
)
def test_a_receiver_without_a_fix_has_no_position(line: str) -> None:
    position = parse(line)
    assert position is not None
    assert np.isnan(position.latitude)


def test_dates_pass_midnight_in_both_directions(tmp_path: Path) -> None:
    file = tmp_path / "log.nmea"
    lines = [gga("235958.00"), gga("235959.00"), rmc("000000.00", "010126"), gga("000001.00")]
    lines += [gga("100000"), gga("200000"), gga("000500"), rmc("000600", "030126")]
    file.write_text("\n".join(lines))
    track = read_nmea(file, [])
    assert track is not None
    midnight = np.datetime64("2026-01-01", "ns").astype(np.int64)
    day = 86_400
    expected = [-2, -1, 0, 1, 36_000, 72_000, day + 300, 2 * day + 360]
    assert ((track.t_ns - midnight) / 1e9).tolist() == expected


def test_a_log_without_dates_or_sentences_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "log.nmea"
    file.write_text(f"{GGA}\n")
    with pytest.raises(MaptileError, match="no RMC sentence with a date"):
        read_nmea(file, [])
    file.write_text("latitude,longitude\n")
    with pytest.raises(MaptileError, match="no GGA or RMC sentence"):
        read_nmea(file, [])


def test_wrong_sentences_are_counted(tmp_path: Path) -> None:
    file, notes = tmp_path / "log.nmea", []
    file.write_text(f"{RMC}\n{GGA.replace('*47', '*48')}\n")
    assert read_nmea(file, notes) is not None
    assert "1 of 2 sentences" in notes[0]


@fuzz(150)
@given(choices=st.data())
def test_damage_to_a_log_gives_positions_or_one_clear_line(
    tmp_path: Path, choices: st.DataObject
) -> None:
    file = tmp_path / "log.nmea"
    whole = "\n".join([RMC, GGA, gga("123520"), rmc("123521.5", "230394")])
    file.write_bytes(choices.draw(damaged(whole.encode())))
    try:
        track = read_nmea(file, [])
    except MaptileError as error:
        assert "\n" not in str(error)
    else:
        assert track is None or check_sound(track) is None


# --- bags ----------------------------------------------------------------------------------------


def bag(folder: Path, kind: str, positions: bool = True, sentences: bool = True) -> Path:
    with BagMaker(folder, kind) as maker:
        for scan in range(SCANS):
            maker.cloud("/points", T0 + scan * STEP_NS, "lidar", cloud_of(scan, "ouster")[0])
        for t_ns, latitude, longitude, std_m in ROWS:
            if positions:
                maker.position("/fix", t_ns, (latitude, longitude), std_m)
            if sentences:
                maker.sentence("/nmea", t_ns + 7, GGA)
        if positions:
            maker.position("/fix", ROWS[-1][0] + 5, (np.nan, np.nan), 0.0)
    return maker.path


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap"])
def test_positions_of_a_bag(tmp_path: Path, kind: str) -> None:
    drive = open_drive(bag(tmp_path, kind))
    check(drive.gnss)
    assert "GNSS of /fix; others are /nmea" in drive.notes
    named = open_drive(bag_path(tmp_path, kind), sensors=("/points", "/nmea"))
    assert named.gnss is not None
    assert named.gnss.t_ns.tolist() == [row[0] + 7 for row in ROWS]


def bag_path(folder: Path, kind: str) -> Path:
    return folder / "drive.bag" if kind == "ros1" else folder / kind


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_sentences_of_a_bag_have_the_times_of_their_headers(tmp_path: Path, kind: str) -> None:
    track = open_drive(bag(tmp_path, kind, positions=False)).gnss
    assert track is not None
    assert track.t_ns.tolist() == [row[0] + 7 for row in ROWS]
    np.testing.assert_allclose(track.latitude, 48 + 7.038 / 60)
    np.testing.assert_allclose(track.std_m, 4.5)


def test_a_bag_without_gnss_has_none(tmp_path: Path) -> None:
    assert open_drive(bag(tmp_path, "mcap", positions=False, sentences=False)).gnss is None


def test_a_covariance_that_is_unknown_is_no_accuracy(tmp_path: Path) -> None:
    with BagMaker(tmp_path, "mcap") as maker:
        maker.cloud("/points", T0, "lidar", cloud_of(0, "ouster")[0])
        maker.position("/fix", T0, (51.0, -1.0), 0.0)
    track = open_drive(tmp_path / "mcap").gnss
    assert track is not None
    assert np.isnan(track.std_m).all()


# --- RobotCar ------------------------------------------------------------------------------------


def test_gps_of_a_simulated_run_is_near_its_truth(town_drive: Path) -> None:
    drive = open_drive(town_drive)
    assert drive.gnss is not None
    assert drive.truth is not None
    latitude, longitude, _ = drive.truth.at(drive.gnss.t_ns)
    known = np.isfinite(latitude)
    north = (drive.gnss.latitude - latitude)[known] * 111_320
    east = (drive.gnss.longitude - longitude)[known] * 111_320 * np.cos(np.radians(51))
    assert np.median(np.hypot(east, north)) < 8.0
    assert (drive.gnss.std_m > 0).all()


@pytest.mark.realdata
def test_gps_of_real_runs_is_read(data_dir: Path) -> None:
    from data_prep.sources.formats.robotcar_tables import read_gps
    from data_prep.sources.robotcar import _gnss

    for file in sorted((data_dir / "robotcar").glob("*/gps/gps.csv")):
        track = _gnss(file, [])
        assert track is not None
        np.testing.assert_array_equal(track.latitude, read_gps(file).latitude)
        check_sound(track)


def test_a_damaged_gps_leaves_the_run_usable(tmp_path: Path, town_drive: Path) -> None:
    from data_prep.sources.robotcar import _gnss

    file, notes = tmp_path / "gps.csv", []
    file.write_text("timestamp,latitude\n1,2\n")
    assert _gnss(file, notes) is None
    assert notes[0].startswith("no GNSS: ")
