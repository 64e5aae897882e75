"""streamsvc: the engine behind Feast stream features."""

from streamsvc.definitions.route import ScoringRoute

__all__ = ["ScoringRoute", "__version__"]

__version__ = "0.1.0"
