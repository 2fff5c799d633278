"""The training loop: build a run from its config, update, evaluate, record and resume."""
