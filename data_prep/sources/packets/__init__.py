"""Raw packets of LiDARs, decoded by the libraries of their makers or users."""
