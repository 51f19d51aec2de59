"""Searchers: each is an `agents.search.Agent` and sees only an environment's spaces and info."""
