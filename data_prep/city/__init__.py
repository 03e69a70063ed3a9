"""The map raster of a city, its tiles and its folder."""
