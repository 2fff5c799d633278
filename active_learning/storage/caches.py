"""Where this user's copies are."""

import os
from pathlib import Path


def user_cache() -> Path:
    """Returns this user's folder for what can be made or fetched again."""
    base = Path(os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache").expanduser()
    return base / "active_learning"
