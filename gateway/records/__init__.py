"""Records of requests that have ended: a line in the log, metrics, a trace."""
