"""Records to batches: windows, splits over them, and grain pipelines."""
