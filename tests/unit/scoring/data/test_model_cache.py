"""Models of the hub: one commit's config, safetensors and tokenizer in one folder, complete or not there at all."""

import pytest

from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.common.errors import ExitCode
from suites.definitions.data_cache import read_complete_meta
from support.fakes.hub_datasets import make_one_file, make_texts
from support.models.hf_checkpoint import write_hf_folder
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring


@pytest.fixture
def model(tmp_path):
    """File -> bytes of a small model with the tokenizer of bytes, and weights of other formats."""
    folder = write_hf_folder(tmp_path / "made", shards=2, tokenizer=False)
    files = {path.name: path.read_bytes() for path in (*folder.iterdir(), *BYTE_TOKENIZER.iterdir()) if path.is_file()}
    return {"pytorch_model.bin": b"pickle", "README.md": b"#", "consolidated.safetensors": b"x", **files}


@pytest.fixture
def prefill(hub, scoring, tmp_path, data):
    """Fetches a model, and the data of a small suite; the command's result."""
    hub.push_commit("acme/some", make_one_file(make_texts("some")))
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/some}}\n")
    return lambda name, *more: scoring("prefill", "--suite", suite, "--eval-data", data.eval_data, "--model", name, *more)


def test_one_commit_is_fetched_once_and_without_weights_of_other_formats(hub, model, prefill, data):
    first = hub.push_commit("acme/small", model, kind="models")
    ended = prefill("acme/small@main")
    folder = data.model("acme/small@main")
    assert f"acme/small: commit {first}, " in ended.stderr, ended.stderr
    weights = {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    present = {path.name for path in folder.iterdir()}
    assert weights | {"config.json", "tokenizer.json", "meta.json"} <= present
    assert not present & {"pytorch_model.bin", "README.md", "consolidated.safetensors", ".cache"}
    assert all((folder / name).read_bytes() == model[name] for name in present - {"meta.json"})
    inspection = inspect_checkpoint(folder, now=4e9, settle_seconds=60.0, any_step=True)
    assert (inspection.kind, inspection.tokenizer) == (Completeness.COMPLETE, str(folder))
    asked = len(hub.requests)
    second = hub.push_commit("acme/small", {**model, "generation_config.json": b"{ }"}, kind="models")
    assert prefill("acme/small@main").code == ended.code
    assert len(hub.requests) == asked, "what is there needs no network"
    assert f"commit {second}" in prefill("acme/small@main", "--refresh").stderr
    assert (folder / "generation_config.json").read_bytes() == b"{ }"
    assert f"commit {first}" in prefill(f"acme/small@{first}").stderr


def test_a_fetch_that_ends_in_the_middle_leaves_nothing_that_looks_like_a_model(hub, model, prefill, data):
    hub.push_commit("acme/torn", model, kind="models")
    hub.add_fault("model-00002", "404", times=99, method="*")
    assert prefill("acme/torn").code in {ExitCode.TEMPORARY, ExitCode.DATA_MISSING}
    assert list(data.model("acme/torn").parent.glob("acme*")) == []
    hub.faults.clear()
    prefill("acme/torn")
    assert read_complete_meta(data.model("acme/torn")) is not None


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        (
            "acme/pickles",
            {"config.json": b"{}", "pytorch_model.bin": b"x"},
            "has no safetensors; take a revision with safetensors",
        ),
        ("acme/nothing", None, "model cannot be fetched (RepositoryNotFoundError"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(hub, prefill, name, files, said):
    if files is not None:
        hub.push_commit(name, files, kind="models")
    ended = prefill(name)
    assert ended.code == ExitCode.DATA_MISSING
    assert len(ended.complaints) == 1
    assert said in ended.complaints[0]
