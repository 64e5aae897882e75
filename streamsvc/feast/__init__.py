"""The Feast plug-ins."""
