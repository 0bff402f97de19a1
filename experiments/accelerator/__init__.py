"""What jaxpg's programs are on accelerators: compiled for them ahead of time, and counted."""
