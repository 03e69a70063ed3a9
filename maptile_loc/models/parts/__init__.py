"""Parts that the kinds of models share, and the files of published models."""
