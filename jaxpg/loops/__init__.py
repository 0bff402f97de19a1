"""Compiled training and evaluation: of one run, of many runs, and on several devices."""
