"""Files of a drive, in folders or in archives."""
