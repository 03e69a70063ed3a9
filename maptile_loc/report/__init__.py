"""Metrics, result files, pages and pictures."""
