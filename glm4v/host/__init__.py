"""The machine, or the container, that a process runs on."""
