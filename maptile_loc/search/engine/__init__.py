"""What the search methods share."""
