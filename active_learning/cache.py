"""Compiled programs are kept on disk, so that the same run, or the next seed, starts at once."""

import os
from pathlib import Path

import jax


def default() -> Path:
    """The folder of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "active_learning" / "compiled"


def keep(folder: str | None = None) -> None:
    """Keeps them in `folder`, by default where $JAX_COMPILATION_CACHE_DIR says, else in the user's cache folder; '' keeps none."""
    if folder is None and jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(default() if folder is None else folder) or None)
