"""Experiments that compare trainings: their results as tables, curves and findings, on a page and in the terminal."""
