"""OSM data from any source as two tables: buildings and roads."""
