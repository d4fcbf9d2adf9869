"""Checks and measurements on a GPU, in a fixed time.

Imports nothing by itself, because each part runs in a process of its own.
"""
