"""A trained model under degradation, its gradients, and its features."""
