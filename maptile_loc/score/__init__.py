"""The likelihood of a query tile at a pose on the map."""
