"""What is compiled: the state's memory and everything that walks it. Arrays in, arrays out."""
