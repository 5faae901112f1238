"""The batch, the front end, encoders, the fusion network, and weights."""
