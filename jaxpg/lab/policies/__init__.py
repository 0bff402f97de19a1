"""Load, evaluate, draw and export trained policies."""
