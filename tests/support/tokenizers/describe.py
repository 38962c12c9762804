"""What transformers makes of tokenizer folders: run by the Python of any environment that has it, prints JSON.

python describe.py [--slow] FOLDER...: {folder: {prefix, bos, eos, vocab_size, ids: [...], class} or {error}}
python describe.py --templates REQUEST.json: [[text or null, for each conversation] for each template] of a folder
"""

import json
import os
import sys

TEXTS = [
    "Hi",
    "the cat sat on the mat.",
    " the other  two   spaces",
    "line\nbreaks\n\n\ttabs",
    "été, naïve, Zürich",
    "ACGTNACGT",
    "12+30=42.0",
    "გამარჯობა, მშვიდობა",
    "日本語のテキスト",
    "emoji 🙂👩‍👩‍👧 end",
    "<|endoftext|>",
    "a<s>b</s>c",
    "<|im_start|>user",
    "don't we'll I'm",
    "e\u0301 combining",
    "",
    " ",
    "    indented code:\n        return x",
    "MiXeD CaSe WORDS",
    "ends with a space ",
]


def render(path: str) -> list:
    """Every template with every conversation, null where it fails; the date is fixed."""
    from datetime import datetime  # noqa: PLC0415  as above

    from transformers import AutoTokenizer  # noqa: PLC0415  as above
    from transformers.utils import chat_template_utils  # noqa: PLC0415  as above

    class Fixed(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 1, 1, tzinfo=tz)

    chat_template_utils.datetime = Fixed
    with open(path, encoding="utf-8") as file:  # noqa: PTH123  a script of its own
        request = json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(request["folder"], local_files_only=True)

    def apply(template: str, messages: list) -> str | None:
        try:
            return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        except Exception:  # noqa: BLE001  templates raise any class
            return None

    return [[apply(template, messages) for messages in request["conversations"]] for template in request["templates"]]


def describe(folder: str, *, slow: bool = False) -> dict:
    from transformers import AutoTokenizer  # noqa: PLC0415  after the environment is set

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=not slow, local_files_only=True, trust_remote_code=False)
        probe = next(text for text in ("a", "the", "A", "ა", "0") if tokenizer.encode(text, add_special_tokens=False))
        full, plain = tokenizer.encode(probe), tokenizer.encode(probe, add_special_tokens=False)
        before = next((full[:n] for n in range(len(full)) if full[n : n + len(plain)] == plain), [])
        return {
            "class": type(tokenizer).__name__,
            "prefix": before,
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
            "bos_text": tokenizer.bos_token,
            "eos_text": tokenizer.eos_token,
            "vocab_size": max(tokenizer.get_vocab().values()) + 1,
            "ids": [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in TEXTS],
            "special_ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
        }
    except Exception as error:  # noqa: BLE001  it raises any class
        return {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    if sys.argv[1] == "--templates":
        print(json.dumps(render(sys.argv[2])))
    else:
        folders = [argument for argument in sys.argv[1:] if argument != "--slow"]
        print(json.dumps({folder: describe(folder, slow="--slow" in sys.argv) for folder in folders}))
