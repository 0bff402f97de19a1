"""Training and evaluation as programs: one run, many runs, several devices."""
