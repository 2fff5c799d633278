"""A progress bar with the time left."""

from tqdm import tqdm


class Bar:
    """A progress bar with the time left, one for each part of the work."""

    def __init__(self):
        self.what, self.bar = "", None

    def __call__(self, share: float, what: str) -> None:
        part = what.partition(",")[0]
        if self.bar is None or part != self.what:
            self.close()
            form = "{l_bar}{bar}| {elapsed} elapsed, {remaining} left"
            self.what, self.bar = part, tqdm(total=1.0, desc=part, bar_format=form)
        self.bar.update(max(0.0, min(share, 1.0) - self.bar.n))

    def close(self) -> None:
        """Ends the bar of the current part."""
        if self.bar is not None:
            self.bar.close()
