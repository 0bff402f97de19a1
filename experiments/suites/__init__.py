"""jaxpg on the environments of other suites: training speed beside their own trainers, and results."""
