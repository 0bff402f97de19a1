"""Trained policies: loaded, evaluated, drawn."""
