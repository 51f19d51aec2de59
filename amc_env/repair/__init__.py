"""Repairs weights after channels are removed."""
