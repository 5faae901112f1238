"""Records to batches: segments, splits over them, grain pipelines, augmentation, the leak guard."""
