"""The report page of a localized drive: one HTML file that needs no network."""
