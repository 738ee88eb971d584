"""The command line: `pronk …`."""
