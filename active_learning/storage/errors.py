"""What goes wrong outside of the program, in a module that every other one can import."""

from active_learning.config import ConfigError

__all__ = ["ConfigError", "MissingError", "StorageError"]


class StorageError(RuntimeError):
    """A disk or network failed while the program ran; one line. Commands exit with code 3."""


class MissingError(ConfigError):
    """No object or bucket has this address."""
