"""Training and inference of residual networks beside PyTorch's and plain Flax's.

Imports nothing by itself: the process of a side imports that side's libraries alone.
"""
