"""The contents of a drive or a city, in words and as a picture."""
