"""What JAX traced and compiled, kept for the next process."""
