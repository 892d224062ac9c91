"""The theory, executable."""
