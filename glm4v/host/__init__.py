"""The machine or container that a process runs on."""
