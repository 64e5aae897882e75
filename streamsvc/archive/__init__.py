"""The archive of event topics as Parquet files: names, rows, reading, merging."""
