"""Avro values → columns: schemas, a program for each pair of writer and reader, its interpreter."""
