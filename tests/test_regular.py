"""Named pipes, sockets, devices and files without end: one line, at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import maptile_loc as ml
from data_prep.errors import MaptileError
from data_prep.regular import MAX_FILE_BYTES, check_regular, open_regular, read_regular


@pytest.fixture(params=["pipe", "socket", "device"])
def odd(request, tmp_path, monkeypatch):
    """Makes something that is no regular file."""
    kept = []

    def make(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            monkeypatch.chdir(path.parent)  # names of sockets are short
            kept.append(socket.socket(socket.AF_UNIX))
            kept[-1].bind(path.name)
        return path

    yield make
    for one in kept:
        one.close()


def test_nothing_else_is_opened(odd, tmp_path):
    path = odd(tmp_path / "x")
    for use in (check_regular, open_regular, read_regular):
        with pytest.raises(MaptileError, match=r"x: a (named pipe|socket|device), not a file"):
            use(path)


@pytest.mark.parametrize(
    "name", ["a.osm", "a.osm.pbf", "a.geojson", "a.gpkg", "a.tif", "a.parquet"]
)
def test_maps(odd, tmp_path, name):
    with pytest.raises(MaptileError, match="not a file"):
        ml.prepare_city(odd(tmp_path / name), tmp_path / "city")
    assert not (tmp_path / "city").exists()


@pytest.mark.parametrize("name", ["a.ply", "a.bin", "a.las", "a.zip", "a.tar.gz", "a.bag"])
def test_drives(odd, tmp_path, name):
    with pytest.raises(MaptileError, match=r"a\..*: a (named pipe|socket|device), not a file"):
        ml.open_drive(odd(tmp_path / name))


@pytest.mark.parametrize("name", ["5.bin", "5.ply", "5.las"])
def test_a_cloud_of_a_drive(odd, tmp_path, name):
    odd(tmp_path / "clouds" / name)
    with pytest.raises(MaptileError, match="not a file"):
        ml.open_drive(tmp_path)


def test_a_file_of_the_users_is_not_taken_for_odometry(tmp_path, odd):
    from data_prep.sources.formats.tum import read_tum

    with pytest.raises(MaptileError, match="not a file"):
        read_tum(odd(tmp_path / "odometry.tum"))


def test_a_sparse_file_is_too_large(tmp_path):
    path = tmp_path / "cloud.bin"
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(MaptileError, match=rf"8589934592 bytes; more than {MAX_FILE_BYTES} bytes"):
        ml.open_drive(path)


def test_a_sparse_file_below_the_limit_is_no_cloud(tmp_path):
    path = tmp_path / "cloud.bin"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(MaptileError, match="columns cannot be made out"):
        ml.open_drive(path)
