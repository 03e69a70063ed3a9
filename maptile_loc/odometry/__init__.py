"""Motion of a vehicle, found from its scans."""
