"""The error of all data sources; a module of its own, so that every module of `data` can import it."""


class DataError(ValueError):
    """Data that cannot be used. The message is one line that names the key, file or value, and what to do."""
