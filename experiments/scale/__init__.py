"""Sweeps of many batches in worker processes: what is lost, and what it costs."""
