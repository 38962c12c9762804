"""Tensors of the data cache as files."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """``torch.save``, but OSError where the disk fails: torch writing the file itself says RuntimeError, and not why."""
    sink = io.BytesIO()
    torch.save(dict(tensors), sink)
    path.write_bytes(sink.getbuffer())
