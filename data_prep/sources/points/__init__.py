"""Files of points: PLY, PCD, LAS and .bin."""
