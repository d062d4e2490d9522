"""Expressive portrait animation in functional JAX."""
