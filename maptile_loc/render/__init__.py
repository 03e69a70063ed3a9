"""Views of the map as a vehicle would see it."""
