"""Protobuf values → columns: tables from a message's descriptor, and their interpreter."""
