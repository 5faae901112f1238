"""MFCC, strip CNN, audio LSTM and fusion head: arrays to arrays, no files."""
