"""Analytic costs: FLOPs of matrix products and convolutions, two for each multiply-add, per example.

XLA's own count takes the body of a scan once, whatever its length, so the formula is the source of truth and a test compares it with the
products of an unrolled compiled step.
"""

from dataclasses import dataclass

# Dense bf16 FLOP/s of a chip from the vendors' sheets, by `jax.Device.device_kind`; what is not listed has no MFU.
PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "Tesla V100-SXM2-16GB": 125e12,
    "Tesla T4": 65e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


@dataclass(frozen=True)
class Cost:
    """FLOPs per example: one forward pass, that of the first layer (its input gradient is never computed), what remat computes again."""

    forward: float = 0.0
    first: float = 0.0
    recompute: float = 0.0

    @property
    def train(self) -> float:
        """Forward + backward: three products for each of the forward pass, less the first layer's input gradient."""
        return 3 * self.forward - self.first

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.forward + other.forward, self.first + other.first, self.recompute + other.recompute
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.forward * times, self.first * times, self.recompute * times)

    __rmul__ = __mul__


def dense(tokens: int, d_in: int, d_out: int, first: bool = False) -> Cost:
    """A dense layer on `tokens` vectors."""
    forward = 2.0 * tokens * d_in * d_out
    return Cost(forward, forward if first else 0.0)


def conv(height: int, width: int, kernel: int, c_in: int, c_out: int, first: bool = False) -> Cost:
    """A convolution with a square kernel; height and width are those of its output."""
    return dense(height * width, kernel * kernel * c_in, c_out, first)


def attention(queries: int, keys: int, width: int) -> Cost:
    """The two products of attention, q k^T and weights times v, over all heads."""
    return Cost(2 * 2.0 * queries * keys * width)
