"""Compile every kernel ahead, so that neither an event nor a prediction waits for a compiler.

python -m streamsvc.agents.warm
"""

from __future__ import annotations

from streamsvc.features.warm import warm as warm_engine
from streamsvc.transport.batch_builder import warm as warm_batches

__all__ = ["warm"]


def warm() -> None:
    """Run every kernel once. From the disk cache this takes a second, else half a minute."""
    warm_engine()
    warm_batches()


if __name__ == "__main__":
    warm()
