"""Scans and motion as query tiles."""
