"""Localize a vehicle on the map raster of a city."""
