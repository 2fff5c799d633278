"""Faults on purpose: `python -m tests.drill` kills, damages and misleads the public commands."""
