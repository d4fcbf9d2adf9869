"""How fast the project's own parts are, beside what others use for the same work.

Imports nothing by itself: what measures PyTorch must not carry JAX's threads, and the reverse.
"""
