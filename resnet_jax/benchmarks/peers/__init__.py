"""Training and inference of residual networks, compared with PyTorch and plain Flax.

Imports nothing by itself, so that the process of a side imports only that side's libraries.
"""
