"""Explicit Runge-Kutta methods, fixed and adaptive."""
