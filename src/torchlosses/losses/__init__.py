"""The objectives, one folder per family."""
