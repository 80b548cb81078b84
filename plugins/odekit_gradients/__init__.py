"""Gradient methods."""
