"""The window engine: tiles, kernels, aggregations, ageing. Pure: arrays in, arrays out."""
