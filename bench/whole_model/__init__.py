"""GLM-4V-9B's geometry on this machine, once through the whole system, with random weights."""
