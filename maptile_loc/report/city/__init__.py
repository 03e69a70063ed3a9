"""How distinctive the positions of a city are: where a vehicle can be localized."""
