"""Equations from data and from trained fields: the discovery pipeline and the PySINDy bridge."""
