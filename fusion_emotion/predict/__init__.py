"""Prediction: any film or sound in, a timeline of emotions out."""
