"""Plan, step, loop, checkpoints and devices."""
