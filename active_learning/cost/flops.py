"""Analytic FLOPs of matrix products and convolutions per example, two for each multiply-add.

XLA counts the body of a scan once, whatever its length, so the formulas are the source of truth; a
test compares them with the products of an unrolled compiled step.
"""

from dataclasses import dataclass

# Dense bf16 FLOP/s of a chip from the vendors' data sheets, by `jax.Device.device_kind`. No model
# FLOPs utilization (MFU) is reported for devices that are not listed.
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
    """FLOPs of a model per example."""

    # One forward pass.
    forward: float = 0.0
    # Forward pass of the first layer, whose input gradient is never computed.
    first: float = 0.0
    # Forward computation repeated in the backward pass (remat).
    recompute: float = 0.0

    @property
    def train(self) -> float:
        """Forward and backward: three times the forward pass, less one input gradient."""
        return 3 * self.forward - self.first

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.forward + other.forward, self.first + other.first, self.recompute + other.recompute
        )

    def __mul__(self, times: float | int) -> "Cost":
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
