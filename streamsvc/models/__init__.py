"""Training, Triton model repository, golden vectors."""
