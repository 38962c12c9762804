"""Products with weights against float64: one piece or many, cut or not, by oneDNN or by torch."""

import pytest
import torch

from scoring.model import linear as products

pytestmark = pytest.mark.scoring


@pytest.mark.parametrize("size", [8, 341, products.MAX_UNCUT_COLUMNS, products.MAX_UNCUT_COLUMNS + 1, 576, 1536])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("onednn", [False, products.HAS_ONEDNN_LINEAR])
def test_a_product_is_float64s_to_its_rounding(size, biased, onednn, monkeypatch):
    monkeypatch.setattr(products, "HAS_ONEDNN_LINEAR", onednn)
    dice = torch.Generator().manual_seed(size)
    x, weight = (torch.randn(rows, size, generator=dice) for rows in (5, 7))
    bias = torch.randn(7, generator=dice) if biased else None
    held = products.lay_out_weight(weight, weight.dtype)
    assert torch.equal(held, weight)
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    # each of so many terms is rounded by half a unit at most, and so is each sum
    least = torch.finfo(torch.float32).eps * (x.double().abs() @ weight.double().abs().T + 1) * size**0.5
    for of in (weight, held):
        assert ((products.linear(x, of, bias).double() - exact).abs() < least).all()


@pytest.mark.skipif(not products.HAS_ONEDNN_LINEAR, reason="this torch has no oneDNN")
@pytest.mark.parametrize("size", [128, 576])
def test_a_row_does_not_depend_on_the_others(size):
    dice = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, size, generator=dice) for rows in (64, 96))
    held = products.lay_out_weight(weight, weight.dtype)
    whole = products.linear(x, held)
    assert all(torch.equal(products.linear(x[:rows], held), whole[:rows]) for rows in (2, 3, 16, 33))


def test_other_types_are_torchs_own():
    x, weight = torch.randn(3, 600, dtype=torch.bfloat16), torch.randn(4, 600, dtype=torch.bfloat16)
    assert products.lay_out_weight(weight, weight.dtype) is weight
    assert torch.equal(products.linear(x, weight), torch.nn.functional.linear(x, weight))
