"""Simulated drives: a world that differs from the map, a vehicle and its sensors."""
