"""A transfer of trained networks to another labeled set: which networks, and its results."""
