"""Agents: each is an `agents.episode.Agent` and sees only an environment's spaces and info."""
