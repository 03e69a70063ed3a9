"""Many drives, localized one by one: here, or by the workers of a cluster."""
