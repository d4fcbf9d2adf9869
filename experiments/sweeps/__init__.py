"""One file a sweep: an experiment, and how its runs differ."""
