"""The strips of a city's rasters, burnt and compressed by the workers of a cluster."""
