"""Ways to get candidates for a query tile: one file per method."""
