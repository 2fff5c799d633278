"""Counts the FLOPs of products and convolutions in optimised HLO text: what the compiler really
runs, two for each multiply-add.

A loop's body would be counted once, so no product may be in one.
"""

import re

import numpy as np

_DEFINITION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[([\d,]*)\]", re.M)
_DOT = re.compile(r"= (\w+)\[([\d,]*)\]\S* dot\(([^)]*)\), .*?lhs_contracting_dims=\{([\d,]*)\}")
_CONVOLUTION = re.compile(
    r"= \w+\[([\d,]*)\]\S* convolution\(([^)]*)\),(.*?)dim_labels=\w+_(\w+)->"
)
_DILATION = re.compile(r"lhs_dilate=([\dx]+)")


def _shape(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _operands(text: str, shapes: dict[str, list[int]]) -> list[list[int]]:
    """Shapes of the operands; each is written as a name, with or without its shape before it."""
    return [shapes[name] for name in re.findall(r"%([\w.\-]+)", text)]


def _has_product_in_loop(text: str) -> bool:
    """Whether a loop's body, or what it calls, holds a product."""
    bodies = {
        name: body
        for name, body in re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S)
    }
    todo, seen = re.findall(r" while\(.*?body=%?([\w.\-]+)", text), set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", bodies[name])
    return any(re.search(r" (dot|convolution)\(", bodies[name]) for name in seen)


def product_flops(text: str) -> float:
    """FLOPs of all `dot` and `convolution` instructions.

    Raises AssertionError when products hide in library calls or loops.
    """
    assert not _has_product_in_loop(text), "a product in a loop's body would be counted once"
    assert "matmul" not in re.sub(r"metadata=\{[^}]*\}", "", text), (
        "a product hides in a library call"
    )
    shapes = {name: _shape(shape) for name, _, shape in _DEFINITION.findall(text)}
    total = 0.0
    for _, out, operands, contracting in _DOT.findall(text):
        left = _operands(operands, shapes)[0]
        total += 2.0 * np.prod(_shape(out)) * np.prod([left[d] for d in _shape(contracting)])
    for out, operands, window, kernel_labels in _CONVOLUTION.findall(text):
        kernel = _operands(operands, shapes)[1]
        per_output = np.prod(kernel) / kernel[kernel_labels.index("o")]
        dilation = [
            int(n) for result in _DILATION.findall(window) for n in result.split("x")
        ]  # zeros between inputs: no products
        total += 2.0 * np.prod(_shape(out)) * per_output / np.prod(dilation)
    return float(total)
