"""Commits, changelog, restore, shuffle, incarnations."""
