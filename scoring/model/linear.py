"""Products with weights: on a CPU in fp32 by oneDNN, on all else by what torch takes.

torch gives fp32 products on a CPU to MKL, whose kernels for other makers' CPUs know AVX2 only. oneDNN writes its own for
what the CPU can do: 2.2 times as fast on an EPYC with AVX-512. Its rows do not depend on how many there are, from two on.

It adds up all of a long row in one go, which rounds twice as much as MKL's pieces do. So long rows are cut here, too: on the
CPU it was measured on, what comes out is MKL's to the bit. The pieces of a weight must lie together (``lay_out_weight``).
"""

import torch
from torch import nn
from torch.nn import functional

HAS_ONEDNN_LINEAR = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001  is_available() is untyped
"""The operator is not in torch's documented interface: where a torch has none, its own product is taken; and where a graph is
compiled, since the compiler takes none but its own."""

MAX_UNCUT_COLUMNS, MAX_PIECE_COLUMNS = 384, 192
"""Values added up in one go: rows up to WHOLE are not cut, longer ones into equal pieces of at most PIECE."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[..., in], [out, in], [out] -> [..., out]."""
    columns = weight.shape[1]
    if (
        not (HAS_ONEDNN_LINEAR and _is_cpu_float32(x) and _is_cpu_float32(weight))
        or (columns > MAX_UNCUT_COLUMNS and weight.stride(0) != 1)
        or torch.compiler.is_compiling()
    ):
        return functional.linear(x, weight, bias)
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  see ONEDNN
    if columns <= MAX_UNCUT_COLUMNS:
        uncut: torch.Tensor = product(x, weight, bias, "none", [], "")
        return uncut
    piece_columns = -(-columns // -(-columns // MAX_PIECE_COLUMNS))
    sums: torch.Tensor = product(x[..., :piece_columns], weight[:, :piece_columns], bias, "none", [], "")
    for start in range(piece_columns, columns, piece_columns):
        stop = start + piece_columns
        sums = product.binary(x[..., start:stop], sums, weight[:, start:stop], None, "add")
    return sums


def lay_out_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] in ``dtype`` as ``linear`` wants it: a long row's pieces, cut by columns, must each be one stretch of memory."""
    needs_column_layout = (
        HAS_ONEDNN_LINEAR and weight.device.type == "cpu" and dtype is torch.float32 and weight.shape[1] > MAX_UNCUT_COLUMNS
    )
    if not needs_column_layout:
        return weight.to(dtype).contiguous()
    return torch.empty(weight.shape[1], weight.shape[0]).copy_(weight.t()).t()  # at once: nothing is held twice


def _is_cpu_float32(x: torch.Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


class Linear(nn.Linear):
    """Without first values of its own: they are the checkpoint's, and drawing them on the meta device imports a compiler."""

    def reset_parameters(self) -> None:
        """Nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)
