"""Matrices that other tools quantized, and the recipe that made them."""
