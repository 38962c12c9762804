import pytest

from suites.definitions.suite import list_shipped_suites, load_suite
from watcher.config.loader import check_config


@pytest.mark.parametrize("name", list_shipped_suites())
def test_a_quick_suite_is_the_same_with_fewer_tokens_and_items(name):
    whole, quick = load_suite(name, {"DEMO_DATA": "/d"}), load_suite(f"{name}@quick", {"DEMO_DATA": "/d"})
    assert list(whole.definition) == list(quick.definition)
    limits = {"target_tokens": 200_000, "subset_size": 256}
    for entry in whole.definition:
        cut = {key: min(value, limits[key]) if key in limits else value for key, value in whole.definition[entry].items()}
        assert quick.definition[entry] == cut
    is_cut = quick.definition != whole.definition
    assert (quick.digest != whole.digest) == is_cut
    assert quick.name == (f"{name}@quick" if is_cut else name)
    source = quick.to_request().source
    assert load_suite(source, {"DEMO_DATA": "/d"}) == quick


def test_a_quick_stage_and_one_quick_suite_of_a_stage(tmp_path):
    (tmp_path / "ours.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [w.jsonl]}\n")
    (tmp_path / "watcher.yaml").write_text(
        "results: r\nstages:\n"
        "  a: {checkpoints: a, every: 1, suites: [ours, stage1_cf_core@quick], quick: true}\n"
        "  b: {checkpoints: b, every: 1, suites: [ours@quick, stage1_cf_core]}\n"
    )
    config = check_config(tmp_path / "watcher.yaml", {})
    assert config.stages["a"].suites == (f"{tmp_path}/ours.yaml@quick", "stage1_cf_core@quick")
    assert config.stages["b"].suites == (f"{tmp_path}/ours.yaml@quick", "stage1_cf_core")
    quick = load_suite(config.stages["b"].suites[0], {})
    assert load_suite(quick.to_request().source, {}) == quick
