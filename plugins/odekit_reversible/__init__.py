"""Solvers whose steps can be taken back exactly, as numbers and not only in the limit."""
