from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data; a test that asks for it is marked ``realdata``."""
    folder = Path(os.environ.get("MAPTILE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set MAPTILE_DATA)")
    return folder
