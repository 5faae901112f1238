"""One file a run: data, not code."""
