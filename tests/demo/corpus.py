"""Real text that every machine has: CPython's own standard library, split by document into training and held-out text.

Three kinds: ``prose`` (the reference manual's topics as pydoc ships them, and docstrings), ``code`` (the flat
modules: os.py, ast.py, ...) and ``late`` (modules inside packages: asyncio/, email/, ...), which only the second stage
of training sees. A held-out module gives neither its code nor its docstrings to training. The cloze items are
made here, by a program, from the held-out text: the true end of a line against the same with two words exchanged.
"""

import ast
import json
import os
import random
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data import topics

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 2048
BOS, EOS = "<s>", "</s>"
DOCUMENT_KINDS = ("prose", "code", "late")
ITEM_COUNT = 160
CHOICE_COUNT = 4
CONTEXT_LINES = 6
_NOT_TEXT = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages", "dist-packages", "distutils"}
_TRAIN_CHARS = {"prose": 2_500_000, "code": 2_500_000, "late": 2_000_000}
_HELDOUT_CHARS = 1_500  # their beginnings, to the end of a line: fewer than ten documents a slice would give no verdict
_ENDING_CHARS = range(16, 64)

Documents = dict[str, list[tuple[str, str]]]
"""Kind -> (name, text) of its documents."""


def build_corpus(folder: Path) -> None:
    """Write training tokens, held-out documents, cloze items and the tokenizer under ``folder``; once."""
    done = folder / "done"
    if done.exists():
        return
    for name in ("data", "tokenizer", "train"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    train, heldout = split_documents(collect_documents())
    for kind in DOCUMENT_KINDS:
        write_jsonl(folder / "data" / f"{kind}_heldout.jsonl", list_excerpts(heldout[kind]))
    for kind in ("prose", "code"):
        write_jsonl(folder / "data" / f"{kind}_cloze.jsonl", make_cloze_items(heldout[kind]))
    tokenizer = train_tokenizer([text for kind in DOCUMENT_KINDS for _, text in train[kind]])
    save_tokenizer(tokenizer, folder / "tokenizer")
    for kind in DOCUMENT_KINDS:
        encodings = tokenizer.encode_batch([text for _, text in train[kind]], add_special_tokens=False)
        bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        stream = [token for encoding in encodings for token in (bos, *encoding.ids, eos)]
        np.save(folder / "train" / f"{kind}.npy", np.array(stream, dtype=np.int32))
    done.write_text("", encoding="utf-8")


def collect_documents() -> Documents:
    """Every document of the running interpreter's library, by kind, in a fixed order."""
    found: Documents = {kind: [] for kind in DOCUMENT_KINDS}
    found["prose"] = [(f"topic:{name}", text) for name, text in sorted(topics.topics.items())]
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_python_files(root)):
        name = path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
            docstrings = "\n\n".join(_docstrings(text))
        except (UnicodeDecodeError, SyntaxError):  # a few modules are there to be wrong
            continue
        found["late" if "/" in name else "code"].append((name, text))
        if docstrings:
            found["prose"].append((name, docstrings))
    return found


def _python_files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NOT_TEXT and not name.startswith(("__", "config-"))]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _docstrings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) > 80:
                yield docstring


def split_documents(documents_by_kind: Documents) -> tuple[Documents, Documents]:
    """(training, held-out): every eighth document by the checksum of its name, whatever else there is."""
    heldout = {kind: [entry for entry in entries if _held_out(entry[0])] for kind, entries in documents_by_kind.items()}
    # Topics repeat each other's paragraphs: those that a held-out one has are taken out of the others.
    seen = {paragraph for _, text in heldout["prose"] for paragraph in text.split("\n\n")}
    train: Documents = {}
    for kind, entries in documents_by_kind.items():
        kept, chars = [], 0
        for name, text in random.Random(0).sample(entries, len(entries)):
            if _held_out(name) or chars > _TRAIN_CHARS[kind]:
                continue
            own = "\n\n".join(p for p in text.split("\n\n") if p not in seen) if kind == "prose" else text
            kept.append((name, own))
            chars += len(own)
        train[kind] = kept
    return train, heldout


def _held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 8 == 0


def list_excerpts(entries: list[tuple[str, str]]) -> list[dict[str, object]]:
    """Rows {name, text} in a fixed random order: the beginning of each document that is long enough."""
    rows: list[dict[str, object]] = [
        {"name": name, "text": text[: text.rfind("\n", 0, _HELDOUT_CHARS) + 1]}
        for name, text in entries
        if len(text) >= _HELDOUT_CHARS
    ]
    random.Random(0).shuffle(rows)
    return [row for row in rows if row["text"]]


def make_cloze_items(entries: list[tuple[str, str]]) -> Iterator[dict[str, object]]:
    """``ITEM_COUNT`` rows {context, choices, gold}: in which order do the last words of this line stand?

    A cloze task scores " " + choice after the context, so context + " " + the true choice is the document's own text;
    the other choices have two of the words exchanged.
    """
    rng = random.Random(0)
    places = [place for _, text in entries for place in _places(text)]
    for context, words in rng.sample(places, min(ITEM_COUNT, len(places))):
        line = " ".join(words)
        choices = {line}
        while len(choices) < CHOICE_COUNT:
            swapped = words.copy()
            one, other = rng.sample(range(len(words)), 2)
            swapped[one], swapped[other] = words[other], words[one]
            choices.add(" ".join(swapped))
        shuffled = rng.sample(sorted(choices), CHOICE_COUNT)
        yield {"context": context, "choices": shuffled, "gold": shuffled.index(line)}


def _places(text: str) -> Iterator[tuple[str, list[str]]]:
    lines = text.split("\n")
    for index in range(CONTEXT_LINES, len(lines)):
        words = lines[index].split(" ")
        indent = next((n for n, word in enumerate(words) if word), len(words))
        head, rest = words[: indent + 2], words[indent + 2 :]
        if "" not in rest and len(set(rest)) > CHOICE_COUNT and len(" ".join(rest)) in _ENDING_CHARS:
            yield "\n".join([*lines[index - CONTEXT_LINES : index], " ".join(head)]), rest


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of ``VOCAB_SIZE`` entries that puts BOS before every text, as Llama's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts[::3], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and the tokenizer_config.json that transformers wants beside it."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
