"""A page of this machine's browser: recordings and live pictures in, the viewer out."""
