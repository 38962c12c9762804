"""OLMES's own zero-shot request files, against the prompts that are made here of the same rows."""

import gzip
import json

import pytest

from scoring.adapters import to_item
from support.real_items import package, read_items

pytestmark = pytest.mark.scoring

REQUESTS = {
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "winogrande": "winogrande",
    "arc_easy": "arc_easy",
    "arc_challenge": "arc_challenge",
    "openbookqa": "openbookqa",
    "commonsense_qa": "csqa",
    "social_i_qa": "socialiqa",
}
"""Adapter -> folder of its requests, made of the validation split. copa and mmlu have none; sciq's show the support."""


@pytest.mark.parametrize("adapter", REQUESTS)
def test_every_request_is_olmes_own(adapter):
    rows, items, compared = read_items(adapter), {}, 0
    with gzip.open(package() / "oe_eval_tasks" / REQUESTS[adapter] / "rc_0shot" / "requests.jsonl.gz") as lines:
        for line in lines:
            asked = json.loads(line)
            number = asked["doc_id"]
            if number >= len(rows):
                continue
            # OLMES's newer files join " [title]" to a full stop before it; the rule here is lm-evaluation-harness's
            if adapter == "hellaswag" and "[title]" in json.dumps(rows[number]):
                continue
            if number not in items:
                items[number] = to_item(adapter, "ours", rows[number], source=adapter, number=number)
            item, request = items[number], asked["request"]
            assert item.pairs[asked["idx"]] == (request["context"], request["continuation"])
            assert item.gold == asked["label"]
            compared += 1
    assert compared == sum(len(item.pairs) for item in items.values())
    assert len(items) >= 299
