"""MASR Registration against its peers: cases, methods, one command, one table. See README.md."""
