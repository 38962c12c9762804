"""What hypothesis puts into a checkpoint's files: odd values, odd keys, odd slices; and what it may allocate."""

import tracemalloc

from hypothesis import strategies as st

from suites.checkpoint.architecture import FAMILIES, MOST_LAYERS
from support.models.nanotron_checkpoint import BYTE_LEVEL

HEAD = "model/model/lm_head/pp_block/model_weight_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"
ODD = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2, 3, 8, 255, 256, -1, MOST_LAYERS, 2**31, 2**63, 10**40, 10**400])
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.integers(-2, 5) | st.text(max_size=2), max_size=4)
    | st.dictionaries(st.text(max_size=6), st.integers() | st.none(), max_size=3)
)
KEYS = st.sampled_from(
    [
        *BYTE_LEVEL,
        *(f"is_{family}_config" for family in FAMILIES),
        *("attention_bias", "no_rope_layer", "sliding_window_size", "moe_config", "grouped_query", "num_kv_heads"),
        *("multi_query", "global_attn_layers", "rope_seq_len_interpolation_factor", "layer_norm_epsilon", "activation_function"),
    ]
)
MOE = st.dictionaries(
    st.sampled_from(["num_experts", "top_k", "moe_intermediate_size", "enable_shared_expert", "layers"]), ODD, max_size=5
)
NUMBER = st.sampled_from(["0", "4", "8", "9", "256", "-1", "None", "", "x", "1e3", "9" * 40, " 8"])
BOX = st.lists(st.lists(NUMBER, min_size=1, max_size=4).map(",".join), min_size=1, max_size=3).map("|".join)
PAIRS = st.lists(st.tuples(BOX, BOX).map("#".join), min_size=1, max_size=4).map(";".join)
SHAPES = st.sampled_from(["(256, 8)", "(256,)", "(9999999999, 8)", "()", "(np.int64(256), 8)"])


def frugally(act, most):
    """What ``act`` gives, taking less than ``most`` bytes in one of three tries: what is made once is none of its own."""
    peaks = []
    while not peaks or (peaks[-1] >= most and len(peaks) < 3):
        tracemalloc.start()
        try:
            given = act()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < most, peaks
    return given
