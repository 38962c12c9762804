"""Products with weights: on a CPU in fp32 by oneDNN, on all else by what torch takes.

torch gives fp32 products on a CPU to MKL, whose kernels for other makers' CPUs know AVX2 only. oneDNN writes its own for
what the CPU can do: 2.2 times as fast on an EPYC with AVX-512. Its rows do not depend on how many there are, from two on.

It adds up all of a long row in one go, which rounds twice as much as MKL's pieces do. So long rows are cut here, too: on the
CPU it was measured on, what comes out is MKL's to the bit. The pieces of a weight must lie together (``laid_out``).
"""

import torch
from torch import nn
from torch.nn import functional

ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001  is_available() is untyped
"""The operator is not in torch's documented interface: where a torch has none, its own product is taken; and where a graph is
compiled, since the compiler takes none but its own."""

WHOLE, PIECE = 384, 192
"""Values added up in one go: rows up to WHOLE are not cut, longer ones into equal pieces of at most PIECE."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[..., in], [out, in], [out] -> [..., out]."""
    size = weight.shape[1]
    if not (ONEDNN and _plain(x) and _plain(weight)) or (size > WHOLE and weight.stride(0) != 1) or torch.compiler.is_compiling():
        return functional.linear(x, weight, bias)
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  see ONEDNN
    if size <= WHOLE:
        whole: torch.Tensor = product(x, weight, bias, "none", [], "")
        return whole
    step = -(-size // -(-size // PIECE))
    sums: torch.Tensor = product(x[..., :step], weight[:, :step], bias, "none", [], "")
    for start in range(step, size, step):
        stop = start + step
        sums = product.binary(x[..., start:stop], sums, weight[:, start:stop], None, "add")
    return sums


def laid_out(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] in ``dtype`` as ``linear`` wants it: a long row's pieces, cut by columns, must each be one stretch of memory."""
    columns = ONEDNN and weight.device.type == "cpu" and dtype is torch.float32 and weight.shape[1] > WHOLE
    if not columns:
        return weight.to(dtype).contiguous()
    return torch.empty(weight.shape[1], weight.shape[0]).copy_(weight.t()).t()  # at once: nothing is held twice


def _plain(x: torch.Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


class Linear(nn.Linear):
    """Without first values of its own: they are the checkpoint's, and drawing them on the meta device imports a compiler."""

    def reset_parameters(self) -> None:
        """Nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)
