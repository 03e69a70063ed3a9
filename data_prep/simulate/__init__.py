"""Simulated drives: a world that differs from the map, a vehicle, and its sensors.

``trajectory.open_trajectory`` opens the path, ``record.simulate`` drives along it and writes the
recordings; ``sensors.SENSORS`` has the names of the sensors.
"""
