"""Losses that several kinds of models, or several recipes of one kind, choose from."""
