"""Reading ten thousand settings."""
