"""Runs in lm-evaluation-harness's environment: requests on stdin, a JSON line each; seconds and log-likelihoods on stdout."""

import json
import logging
import sys
import time

logging.disable(logging.WARNING)

from lm_eval.api.instance import Instance  # noqa: E402  says much while it is imported
from lm_eval.models.huggingface import HFLM  # noqa: E402  as above

MODEL_CACHE = {}


def run_timed_request(request):
    """``kind`` loglikelihood (pairs) or loglikelihood_rolling (texts), with one batch size; loading is not counted."""
    batch = request["batch"]
    if batch not in MODEL_CACHE:
        MODEL_CACHE.clear()
        more = {"device": "cpu", "dtype": "float32", "max_length": request["max_length"], "add_bos_token": False}
        MODEL_CACHE[batch] = HFLM(pretrained=request["model"], batch_size=batch, **more)
    arguments = [tuple(each) for each in request["requests"]]
    requests = [Instance(request["kind"], {}, each, number) for number, each in enumerate(arguments)]
    began, busy = time.perf_counter(), time.process_time()
    found = getattr(MODEL_CACHE[batch], request["kind"])(requests, disable_tqdm=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "cpu_s": cpu, "ll": [each[0] if isinstance(each, tuple) else each for each in found]}


for line in sys.stdin:
    print("found:" + json.dumps(run_timed_request(json.loads(line))), flush=True)
