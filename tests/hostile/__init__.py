"""Clients that mean harm, with an honest one beside them."""
