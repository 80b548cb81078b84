"""Benchmarks that the command line runs: `odekit benchmark discovery`."""
