"""The building blocks of algorithms."""
