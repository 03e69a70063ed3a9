"""How distinctive the places of a city are."""
