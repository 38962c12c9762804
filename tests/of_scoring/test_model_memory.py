"""Loading takes no more memory than the weights and little more than the largest tensor."""

import pytest

from bench.bench_loading import MIB, run

pytestmark = pytest.mark.scoring


@pytest.mark.parametrize(("stored", "times"), [("bfloat16", 1.2), ("float32", 0.0)])
def test_a_load_holds_one_tensor_besides_the_weights(stored, times, tmp_path):
    (row,) = run(0.15, "cpu", tmp_path, [(stored, "float32", 2)])  # nothing is held twice where no type is changed
    assert row["weights"] >= 0.2e9
    assert row["beyond"] <= times * row["largest_tensor"] + 24 * MIB
    assert row["beyond"] <= row["allowed"]
