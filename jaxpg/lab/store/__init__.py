"""What lies on the disk: configuration, log, checkpoints, results."""
