"""The algorithms: a function and a file for each."""
