"""Searchers, each an `agents.search.Agent`: they know an environment by its spaces and its info alone."""
