"""Two runs never write to the same name, and a dead process holds no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_city import small_city

from data_prep.errors import MaptileError
from data_prep.locks import locked
from maptile_loc import open_city, prepare_city

HOLD = """
import sys, time
from pathlib import Path
from data_prep.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of OUT."""
    with holding(tmp_path / "out") as child:
        yield child


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_holder_is_named(tmp_path, holder):
    with (
        pytest.raises(MaptileError, match=rf"process {holder.pid}, since 20\d\d-"),
        locked(tmp_path / "out"),
    ):
        raise AssertionError("two hold it")


def test_a_link_to_the_folder_is_the_same_folder(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(MaptileError, match="is writing it"), locked(tmp_path / "link"):
        raise AssertionError("two hold it")


def test_a_killed_process_holds_no_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".out.lock").exists()
    with locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_thread_may_take_it_again_and_another_one_may_not(tmp_path):
    failed: list[BaseException] = []

    def take() -> None:
        try:
            with locked(tmp_path / "out"):
                pass
        except MaptileError as error:
            failed.append(error)

    with locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
            pass
        assert (tmp_path / ".out.lock").exists()
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(failed) == 1
    take()
    assert len(failed) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_child_process_does_not_keep_the_lock(tmp_path):
    read, write = os.pipe()
    with locked(tmp_path / "out"):
        child = os.fork()
        if child == 0:
            os.read(read, 1)
            os._exit(0)
    with locked(tmp_path / "out"):
        pass
    os.write(write, b"x")
    os.waitpid(child, 0)


def test_a_city_is_not_replaced_while_a_model_of_it_is_trained(tmp_path):
    city = small_city(tmp_path)
    with holding(city.path / "models" / "mapnet"):
        with pytest.raises(MaptileError, match=r"models/mapnet: another run"):
            prepare_city(tmp_path / "small.osm", city.path, overrides=["resolution=1"])
        assert open_city(city.path).raster.resolution == city.raster.resolution
    again = prepare_city(tmp_path / "small.osm", city.path, overrides=["resolution=1"])
    assert again.raster.resolution == 1
    assert not list(city.path.rglob(".*.lock"))
