"""Which of many cities a drive was recorded in: an index of all their views, and the votes."""
