"""Feast registry → an immutable, validated Plan."""
