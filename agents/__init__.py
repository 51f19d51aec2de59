"""Agents: each has the methods of `agents.episode.Agent` and sees only an environment's spaces and info."""
