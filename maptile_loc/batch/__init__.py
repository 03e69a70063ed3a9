"""A recorded drive, localized as a whole: here, or on a cluster."""
