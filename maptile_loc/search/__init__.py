"""Methods that find candidate poses for a query tile."""
