"""Runs in lm-evaluation-harness's environment: requests on stdin, a JSON line each; seconds and log-likelihoods on stdout."""

import json
import logging
import sys
import time

logging.disable(logging.WARNING)

from lm_eval.api.instance import Instance  # noqa: E402  says much while it is imported
from lm_eval.models.huggingface import HFLM  # noqa: E402  as above

MODELS = {}


def answer(asked):
    """``kind`` loglikelihood (pairs) or loglikelihood_rolling (texts), with one batch size; loading is not counted."""
    batch = asked["batch"]
    if batch not in MODELS:
        MODELS.clear()
        more = {"device": "cpu", "dtype": "float32", "max_length": asked["max_length"], "add_bos_token": False}
        MODELS[batch] = HFLM(pretrained=asked["model"], batch_size=batch, **more)
    arguments = [tuple(each) for each in asked["requests"]]
    requests = [Instance(asked["kind"], {}, each, number) for number, each in enumerate(arguments)]
    began = time.perf_counter()
    found = getattr(MODELS[batch], asked["kind"])(requests, disable_tqdm=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "ll": [each[0] if isinstance(each, tuple) else each for each in found]}


for line in sys.stdin:
    print("found:" + json.dumps(answer(json.loads(line))), flush=True)
