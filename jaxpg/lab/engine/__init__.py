"""Training: from a configuration to a finished directory."""
