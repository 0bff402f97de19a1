"""Thousands of settings: workers that train them, and reading what they left."""
