"""Runs a process: settings, listeners, health, metrics, signals and drain."""
