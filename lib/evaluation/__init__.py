"""Accuracy, calibration, out-of-distribution score and attribution."""
