"""The no-Docker stack: Kafka, Valkey, Triton as child processes."""
