"""Search methods: each file finds candidate poses for a query tile in its own way."""

from __future__ import annotations

from data_prep.registry import Registry

METHODS = Registry("maptile_loc.search", "METHOD", "method")
"""All methods. A new one is a file in this folder that exports ``METHOD``, a ``Method``."""
