"""Storage of a drive's files: folders and archives."""
