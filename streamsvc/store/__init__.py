"""Online rows: keys, codec, reader, fenced writer, applied-position markers."""
