"""A third-party plugin for odekit."""
