"""Sweeps: many runs from one file, and what starts them."""
