"""The arm after the colon, `--config=FILE:ARM`: a name that a config file does not know is refused."""

from active_learning.config import ConfigError


class UnknownArm(ConfigError):
    """A config file has no such arm. The flags library makes an error of `get_config` again, of the trace that ends with it: still one line."""

    def __init__(self, text: str):
        super().__init__(text.strip().rpartition(f"{type(self).__name__}: ")[2])


def check_arm(arm: str, *known: str) -> None:
    """Raises UnknownArm with the names that are known unless `arm` is one of them."""
    if arm not in known:
        raise UnknownArm(f"arm {arm!r} after the colon: expected one of {', '.join(known)}")
