"""The method as pure functions; importable alone (jax, numpy, optax and jaxtyping only)."""
