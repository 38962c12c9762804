"""The doctor says of each reference whether its model and its tokenizer are there."""

from support.models.hf_checkpoint import write_hf_folder
from watcher.config.loader import load_config
from watcher.doctor.checkpoints import check_checkpoints


def test_each_reference_has_a_line(tmp_path):
    whole = write_hf_folder(tmp_path / "whole")
    write_hf_folder(tmp_path / "mute", tokenizer=False)
    torn = write_hf_folder(tmp_path / "torn", shards=2)
    (torn / "model-00002-of-00002.safetensors").unlink()
    config = tmp_path / "w.yaml"
    config.write_text(
        f"results: {tmp_path}/r\nexecutor: local\n"
        "references: {whole: ./whole, mute: ./mute, torn: ./torn, none: ./none, far: 'hub:acme/small@v1'}\n"
        f"stages: {{one: {{checkpoints: {tmp_path}/c, steps: [], suites: [stage1_ppl_slices]}}}}\n"
    )
    found = {each.name: each for each in check_checkpoints(load_config(config, {})) if each.name.startswith("reference")}
    assert [each.verdict for each in found.values()] == ["ok", "wrong", "wrong", "wrong", "warning"]
    assert found["reference whole"].message == f"{whole} is complete; tokenizer {whole}, context length 64"
    assert found["reference far"].hint == "run `watcher prefill reference:far` where there is a network"
    assert "has no tokenizer" in found["reference mute"].message
