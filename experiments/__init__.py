"""One file an experiment; each is its own record."""
