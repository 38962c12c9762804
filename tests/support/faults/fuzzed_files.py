"""What hypothesis puts into a checkpoint's files: odd values, odd keys, odd slices; and what it may allocate."""

import tracemalloc

from hypothesis import strategies as st

from suites.checkpoint.architecture import MAX_LAYERS, MODEL_FAMILIES
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG

HEAD_SHARD = "model/model/lm_head/pp_block/model_weight_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"
ODD_VALUES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2, 3, 8, 255, 256, -1, MAX_LAYERS, 2**31, 2**63, 10**40, 10**400])
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.integers(-2, 5) | st.text(max_size=2), max_size=4)
    | st.dictionaries(st.text(max_size=6), st.integers() | st.none(), max_size=3)
)
MODEL_CONFIG_KEYS = st.sampled_from(
    [
        *BYTE_LEVEL_CONFIG,
        *(f"is_{family}_config" for family in MODEL_FAMILIES),
        *("attention_bias", "no_rope_layer", "sliding_window_size", "moe_config", "grouped_query", "num_kv_heads"),
        *("multi_query", "global_attn_layers", "rope_seq_len_interpolation_factor", "layer_norm_epsilon", "activation_function"),
    ]
)
MOE_CONFIGS = st.dictionaries(
    st.sampled_from(["num_experts", "top_k", "moe_intermediate_size", "enable_shared_expert", "layers"]), ODD_VALUES, max_size=5
)
NUMBER_TEXTS = st.sampled_from(["0", "4", "8", "9", "256", "-1", "None", "", "x", "1e3", "9" * 40, " 8"])
SLICE_TEXTS = st.lists(st.lists(NUMBER_TEXTS, min_size=1, max_size=4).map(",".join), min_size=1, max_size=3).map("|".join)
SLICE_PAIR_TEXTS = st.lists(st.tuples(SLICE_TEXTS, SLICE_TEXTS).map("#".join), min_size=1, max_size=4).map(";".join)
SHAPE_TEXTS = st.sampled_from(["(256, 8)", "(256,)", "(9999999999, 8)", "()", "(np.int64(256), 8)"])


def assert_memory_below(action, max_bytes):
    """What ``action`` gives, taking less than ``max_bytes`` bytes in one of three tries: what is made once is none of its own."""
    peaks = []
    while not peaks or (peaks[-1] >= max_bytes and len(peaks) < 3):
        tracemalloc.start()
        try:
            given = action()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < max_bytes, peaks
    return given
