"""Live localization: scans and odometry are pushed as they arrive."""
