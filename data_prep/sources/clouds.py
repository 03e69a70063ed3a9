"""A generic drive: a folder of point clouds, with odometry where there is one."""

from __future__ import annotations

from pathlib import Path

from data_prep.drive import Drive
from data_prep.errors import MaptileError


def is_clouds(path: Path) -> bool:
    """Whether ``path`` looks like a generic drive: it has a folder clouds/."""
    return (path / "clouds").is_dir()


def open_clouds(path: Path, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a generic drive."""
    raise MaptileError(f"{path}: not yet readable")
