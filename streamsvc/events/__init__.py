"""Bytes → typed columns and back: JSON, event time, lateness, dead letters."""
