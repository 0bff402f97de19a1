"""The host floor: configuration, devices, files, the terminal, the command line. No mathematics here."""
