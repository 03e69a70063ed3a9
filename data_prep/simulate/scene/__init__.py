"""The world of a simulated drive as triangle meshes: terrain, buildings, roadside objects."""
