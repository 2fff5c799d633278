"""The error of all data sources, in a module that every other one can import."""


class DataError(ValueError):
    """Data that cannot be used.

    The message is one line that names the key, file or value, and what to do.
    """
