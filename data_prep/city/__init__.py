"""The folder of a city: its map raster, tiles and tables."""
