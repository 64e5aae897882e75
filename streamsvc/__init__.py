"""streamsvc: the engine behind Feast stream features."""

__version__ = "0.1.0"
