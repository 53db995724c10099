"""Where the time of a load goes, by process and by kind of work."""
