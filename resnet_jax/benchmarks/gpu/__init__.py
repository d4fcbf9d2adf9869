"""All that is checked and measured on a GPU, within the minutes of one lease.

Imports nothing by itself: each part runs in a process of its own.
"""
