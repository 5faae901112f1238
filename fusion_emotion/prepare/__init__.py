"""Clips to records. The only room that imports decord, insightface, onnxruntime and librosa; it never imports jax."""
