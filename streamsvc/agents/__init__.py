"""Thin Faust apps that wire the rooms together."""
