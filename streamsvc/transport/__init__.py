"""Chunked Faust transport on Kafka; the only room that touches aiokafka and Faust internals."""
