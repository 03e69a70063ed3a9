"""Lean images: poses on a grid, their images, networks that regress them, measures and tables.

After Lean Images for Geo-Localization (under review at ICLR 2020), called *the paper* here.
"""
