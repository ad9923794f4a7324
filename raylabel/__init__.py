"""raylabel: a teacher ranks an ocean of unlabeled media, a student learns from the best of it (Yalniz et al. 2019)."""
