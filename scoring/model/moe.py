"""The gated MLP, and nanotron's mixture of experts.

A token goes through its own experts whatever its neighbours are: no token is dropped, and no expert has a capacity.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from scoring.model.linear import Linear
from suites.checkpoint.architecture import Experts

Activation = Callable[[torch.Tensor], torch.Tensor]


class GatedMLP(nn.Module):
    """down(activation(gate) * up)."""

    def __init__(self, hidden: int, intermediate: int, activation: Activation) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden, 2 * intermediate, bias=False)
        self.down_proj = Linear(intermediate, hidden, bias=False)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        gate, up = self.gate_up_proj(x).chunk(2, -1)  # [..., intermediate] both
        out: torch.Tensor = self.down_proj(self.activation(gate).mul_(up))  # [..., hidden]
        return out


class ExpertsMLP(nn.Module):
    """The top k of all experts, weighted by their probabilities.

    A softmax over all experts in fp32, not renormalised.
    """

    def __init__(self, hidden: int, experts: Experts, activation: Activation) -> None:
        super().__init__()
        self.top_k = experts.top_k
        self.activation = activation
        self.router = Linear(hidden, experts.count, bias=False, dtype=torch.float32)
        # used as x @ W, so stored [expert, in, out]
        self.merged_gate_up_proj = nn.Parameter(torch.empty(experts.count, hidden, 2 * experts.intermediate))
        self.merged_down_proj = nn.Parameter(torch.empty(experts.count, experts.intermediate, hidden))
        self.shared_expert: GatedMLP | None = None  # sees every token, behind a gate of its own
        if experts.shared_intermediate is not None:
            self.shared_expert = GatedMLP(hidden, experts.shared_intermediate, activation)
            self.shared_expert_gate = Linear(hidden, 1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        hidden = hidden_states.flatten(0, -2)  # [N, hidden]
        probabilities = functional.softmax(self.router(hidden.float()), dim=-1)  # [N, experts]
        weights, expert_index = probabilities.topk(self.top_k, dim=-1)  # [N, k] both
        # Expert by expert, on its own tokens only. Experts that no token chose get empty tensors.
        out = torch.zeros_like(hidden)  # [N, hidden]
        for expert in range(probabilities.shape[-1]):
            rows, slots = (expert_index == expert).nonzero(as_tuple=True)  # [n] both: the tokens of this expert
            gate, up = (hidden[rows] @ self.merged_gate_up_proj[expert]).chunk(2, dim=-1)  # [n, intermediate] both
            expert_out = (self.activation(gate) * up) @ self.merged_down_proj[expert]  # [n, hidden]
            out.index_add_(0, rows, expert_out * weights[rows, slots, None].to(expert_out.dtype))
        if self.shared_expert is not None:
            out = out + torch.sigmoid(self.shared_expert_gate(hidden)) * self.shared_expert(hidden)  # [N, hidden]
        return out.view_as(hidden_states)
