"""Attacks: each returns the images that it found and a flag for each survivor."""
