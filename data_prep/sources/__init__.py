"""Readers of drives: one file per format."""
