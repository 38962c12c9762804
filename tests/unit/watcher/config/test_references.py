"""`references:` of a config: names, folders, models of the hub, and mistakes in one line."""

import pytest

from suites.common.errors import UserError
from suites.contract.paths import DataPaths
from watcher.config.dump import dump_config
from watcher.config.loader import load_config

STAGES = "stages:\n" + "".join(
    f"  {name}: {{checkpoints: /ckpts/{name}, steps: [1], suites: [stage1_ppl_slices]}}\n" for name in ("stage1", "stage2")
)


def load(tmp_path, references):
    path = tmp_path / "w.yaml"
    path.write_text(f"results: /data/results\nreferences:\n{references}{STAGES}")
    return load_config(path, {})


def test_a_reference_is_a_folder_or_a_model_of_the_hub(tmp_path):
    (tmp_path / "models").mkdir()  # a folder may be still to come
    config = load(
        tmp_path,
        "  smol: models/smol\n"
        "  llama-3.2-1b: {checkpoint: 'hub:meta-llama/Llama-3.2-1B@4e20de3', stages: stage2, tokens: 9T, seq_len: 4096}\n",
    )
    smol, llama = config.references.values()
    assert (smol.checkpoint, smol.hub_model, smol.source) == (str(tmp_path / "models/smol"), None, "reference:smol")
    assert llama.hub_model == "meta-llama/Llama-3.2-1B@4e20de3"
    assert llama.checkpoint == str(DataPaths(config.eval_data).model(llama.hub_model))
    assert llama.checkpoint.startswith("/data/results/eval_data/models/")
    assert (llama.tokens, llama.seq_len) == (9 * 10**12, 4096)
    covered = {reference.name: [stage.name for stage in config.list_reference_stages(reference)] for reference in (smol, llama)}
    assert covered == {"smol": ["stage1", "stage2"], "llama-3.2-1b": ["stage2"]}
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config))
    assert load_config(dumped, {}).references == config.references


@pytest.mark.parametrize(
    ("references", "said"),
    [
        ("  -x: /m\n", "w.yaml:3: references.-x: not a valid name of a reference; use letters"),
        ("  a: {checkpoint: /m, stages: stage9}\n", "w.yaml:3: references.a.stages: no stage 'stage9'; did you mean 'stage"),
        ("  a: {checkpoint: /m, tokens: many}\n", "w.yaml:3: references.a.tokens: 'many' is no number of tokens; write 11T"),
        ("  a: 'hub:'\n", "w.yaml:3: references.a: '' names no model of the hub; write hub:OWNER/NAME@REVISION"),
        ("  a: hub:../x\n", "w.yaml:3: references.a: '../x' names no model of the hub"),
        ("  a: hub:a/b@../../etc\n", "w.yaml:3: references.a: 'a/b@../../etc' names no model of the hub; write hub:OWNER/NAME"),
        ("  a: hub:a/b@/etc\n", "w.yaml:3: references.a: 'a/b@/etc' names no model of the hub"),
        (
            "  a: meta-llama/Llama-3.2-1B\n",
            "meta-llama/Llama-3.2-1B is no folder; write hub:meta-llama/Llama-3.2-1B for a model of the hub, ./",
        ),
        ("  a: gpt2\n", "/gpt2 is no folder; write hub:gpt2 for a model of the hub, ./gpt2 for a folder that is still to come"),
        ("  a: HUB:gpt2\n", "w.yaml:3: references.a: 'HUB:gpt2' is no folder; write hub:gpt2 for a model of the hub"),
        ("  a: https://huggingface.co/gpt2\n", "'https://huggingface.co/gpt2' is no folder; write hub:OWNER/NAME for a model"),
        ("  a: ''\n", "w.yaml:3: references.a: names no model; write its folder, or hub:OWNER/NAME"),
        ("  a: {checkpoint: /m, stages: []}\n", "w.yaml:3: references.a.stages: names no stage; leave it out for all stages"),
        ("  a: {checkpoint: /m, tokens: 1.5e99T}\n", "w.yaml:3: references.a.tokens: '1.5e99T' is more tokens than there are"),
        ("  a: {checkpoint: /m, tokens: 1000000000000000000000}\n", "references.a.tokens: 1000000000000000000000 is more"),
        ("  a: {chekpoint: /m}\n", "w.yaml:3: references.a: "),
        ("  a: [1]\n", "w.yaml:3: references.a: "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, references, said):
    with pytest.raises(UserError) as caught:
        load(tmp_path, references)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
