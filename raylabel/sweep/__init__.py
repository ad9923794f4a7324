"""A recipe and values for some of its fields → trials that share the artifacts they have in common (Ray Tune)."""
