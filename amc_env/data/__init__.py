"""Data sets, their splits, and where they come from."""
