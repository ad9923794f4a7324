"""A recipe, and values for some of its fields → trials that share what they have in common (Ray Tune)."""
