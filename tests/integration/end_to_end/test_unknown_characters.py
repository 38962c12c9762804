"""Characters without a token are counted, stand in tier files, and bits per byte leaves them out."""

import json
import math

import pytest

from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process
from support.tokenizers.folders import ENDS, FAST
from support.tokenizers.vocabularies import characters, save

pytestmark = pytest.mark.scoring


@pytest.mark.parametrize("unk", [None, "<unk>"])
def test_a_small_alphabet_is_scored_and_what_it_lacks_is_said(tmp_path, unk):
    specials = ("<unk>", "<s>", "</s>") if unk else ("<s>", "</s>")
    save(tmp_path / "tok", characters("ACGT", *specials, unk=unk), {"tokenizer_class": FAST, **ENDS})
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "ACGTACGTé X"}) + "\n" + json.dumps({"text": "ACGT" * 5}) + "\n")
    (tmp_path / "ppl.yaml").write_text(f"tier: tier2_ppl\nslices: {{dna: {{data_files: [{tmp_path}/rows.jsonl]}}}}\n")
    arguments = make_score_arguments(tmp_path, suites=("ppl.yaml",))
    arguments[arguments.index("--tokenizer") + 1] = str(tmp_path / "tok")
    assert run_scoring_in_process(arguments) == 0
    document = json.loads((get_results_folder(tmp_path) / "tier2_ppl.json").read_text())
    entry = document["slices"]["dna"]
    assert (entry["characters"], entry["unknown_characters"], entry["unknown_bytes"]) == (31, 3, 4)
    assert entry["bytes"] == 28
    assert math.isclose(entry["bits_per_byte"], entry["nll_sum"] / math.log(2) / 28)
    assert "dna: 9.68% of the characters have no token; bits per byte divides by the bytes of the others" in document["notes"]
    told = document["tokenizer"]
    assert (told["class"], told["way"], told["revision"]) == (FAST, "tokenizer.json", None)
    bos, eos = len(specials) - 2, len(specials) - 1
    assert told["bos"] == {"text": "<s>", "id": bos}
    assert told["document_separator"] == {"before": [bos], "after": [eos]}
