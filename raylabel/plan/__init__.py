"""Predicts the cost of a run before it is started."""
