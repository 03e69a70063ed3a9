"""Fixes and odometry as one trajectory."""
