"""Attacks: each returns the images that it found and which survived."""
