"""The `streamsvc` command: one function per verb."""
