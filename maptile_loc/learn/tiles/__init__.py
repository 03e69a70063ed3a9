"""Where training tiles come from: rendered views, or windows of the map raster."""
