"""Products with weights, on a CPU in fp32 by oneDNN.

torch gives fp32 CPU products to MKL, which uses only AVX2 on other makers' CPUs; oneDNN is 2.2 times as fast on an EPYC with
AVX-512. Long rows are cut into pieces, because one long sum rounds twice as much as MKL's; with pieces, results equal MKL's bit
by bit.
"""

import torch
from torch import nn
from torch.nn import functional

HAS_ONEDNN_LINEAR = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001  is_available() is untyped
"""Whether torch has the operator, which it does not document."""

MAX_UNCUT_COLUMNS, MAX_PIECE_COLUMNS = 384, 192
"""Rows of up to MAX_UNCUT_COLUMNS values are summed in one go, longer ones in equal pieces of at most MAX_PIECE_COLUMNS."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[..., in], [out, in], [out] -> [..., out].

    From two rows on, a row's result does not depend on how many there are.
    """
    columns = weight.shape[1]
    # Pieces need a weight from lay_out_weight; a compiled graph needs the compiler's own product.
    if (
        not (HAS_ONEDNN_LINEAR and _is_cpu_float32(x) and _is_cpu_float32(weight))
        or (columns > MAX_UNCUT_COLUMNS and weight.stride(0) != 1)
        or torch.compiler.is_compiling()
    ):
        return functional.linear(x, weight, bias)
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  see HAS_ONEDNN_LINEAR
    if columns <= MAX_UNCUT_COLUMNS:
        uncut: torch.Tensor = product(x, weight, bias, "none", [], "")  # [..., out]
        return uncut
    # Equal pieces, added up in the order of their columns: each product continues the sums of the last.
    piece_columns = -(-columns // -(-columns // MAX_PIECE_COLUMNS))
    sums: torch.Tensor = product(x[..., :piece_columns], weight[:, :piece_columns], bias, "none", [], "")  # [..., out]
    for start in range(piece_columns, columns, piece_columns):
        stop = start + piece_columns
        sums = product.binary(x[..., start:stop], sums, weight[:, start:stop], None, "add")
    return sums


def lay_out_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight [out, in] in ``dtype``, laid out for ``linear``.

    Column by column if long rows are cut into pieces.
    """
    needs_column_layout = (
        HAS_ONEDNN_LINEAR and weight.device.type == "cpu" and dtype is torch.float32 and weight.shape[1] > MAX_UNCUT_COLUMNS
    )
    if not needs_column_layout:
        return weight.to(dtype).contiguous()
    return torch.empty(weight.shape[1], weight.shape[0]).copy_(weight.t()).t()  # one copy, so that memory holds nothing twice


def _is_cpu_float32(x: torch.Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


class Linear(nn.Linear):
    """A linear layer without initial values.

    Drawing them on the meta device would import a compiler.
    """

    def reset_parameters(self) -> None:
        """Do nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)
