"""`glm4v bench compare`: whether one measurement is faster than another."""
