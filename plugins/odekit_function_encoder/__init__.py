"""A basis of vector fields that adapts to a new system without training."""
