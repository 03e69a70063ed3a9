"""Contents of a drive or a city, as lines of text and as a picture."""
