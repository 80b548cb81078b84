"""Named dynamical systems with their equations, parameters and synthetic data."""
