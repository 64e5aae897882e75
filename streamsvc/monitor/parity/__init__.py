"""Parity: served vectors against what history gives at their logged positions."""
