"""`glm4v bench serve`: load on a running system, and what its callers see."""
