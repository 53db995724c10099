"""What every process is made of: settings, listeners, signals, errors, drain."""
