"""Checkpoints to numbers, and numbers to a report."""
