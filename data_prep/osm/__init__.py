"""OpenStreetMap data of any source as two tables: buildings and roads."""
