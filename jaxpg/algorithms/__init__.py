"""What a user calls: one file for each algorithm."""
