"""City tiles from OpenStreetMap, and drives from sensor data."""
