"""Every fold and seed of a configuration, what they add up to, and comparisons of runs."""
