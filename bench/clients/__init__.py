"""Scripts that run benchmark tools of others against a gateway."""
