"""Step-size controllers."""
