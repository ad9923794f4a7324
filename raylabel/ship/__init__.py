"""What leaves a root: networks for other programs, and predictions."""
