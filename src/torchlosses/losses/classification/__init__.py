"""Softmax, sigmoid and robust classification objectives."""
