"""Trainers: multiple shooting and gradient descent through the solver."""
