"""Vectors, model client, fallbacks, prediction records."""
