"""Motion of the vehicle from its scans."""
