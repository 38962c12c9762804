"""Data files of every kind, damaged in every way, from a seed."""

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from support.datasets.task_rows import ROWS

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz", ".csv", ".ndjson", ".json.gz")

ODD_VALUES = (
    None,
    float("nan"),
    float("inf"),
    True,
    0,
    -1,
    0.5,
    2**70,
    "",
    "\ud800",
    "\0",
    "7",
    [],
    [None],
    [[]],
    ["a", 1],
    {},
    {"text": "a"},
)


class DamagedFile(NamedTuple):
    """A file, and the definition of the slice or task that reads it."""

    path: Path
    tier: str
    definition: dict
    damage: str


def make_text_rows(rng: random.Random) -> list[dict]:
    words = ["loss", "Schritt", "шаг", "損失", "é", "\t", "\n", "{}", '"']
    return [
        {"text": " ".join(rng.choices(words, k=rng.randint(0, 30))), "n": n, "at": {"x": n, "y": [n]}}
        for n in range(rng.randint(1, 40))
    ]


def spoil_cell(rng: random.Random, rows: list[dict]) -> None:
    """One value of one row becomes odd, or one of what it holds."""
    row = rng.choice(rows)
    column = rng.choice(list(row))
    value = rng.choice(ODD_VALUES)
    match row[column]:
        case dict() as inner if inner and rng.random() < 0.7:
            row[column] = {**inner, rng.choice(list(inner)): value}
        case list() as inner if inner and rng.random() < 0.7:
            row[column] = [*inner[:-1], value]
        case _:
            row[column] = value
    if rng.random() < 0.1:
        del row[column]


def encode_parquet(rng: random.Random, rows: list[dict]) -> bytes:
    """Rows as parquet; values that no column can hold together become text."""
    stream = io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows)
        options = {
            "compression": rng.choice(["none", "snappy", "zstd", "gzip"]),
            "use_dictionary": rng.random() < 0.5,
            "data_page_version": rng.choice(["1.0", "2.0"]),
            "row_group_size": rng.choice([1, 7, 1000]),
            "write_page_checksum": rng.random() < 0.3,
        }
        pq.write_table(table, stream, **options)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{column: ascii(value) for column, value in row.items()} for row in rows]), stream)
    return stream.getvalue()


def encode(rng: random.Random, suffix: str, rows: list[dict]) -> bytes:
    """Rows as a file of that kind."""
    if suffix == ".parquet":
        return encode_parquet(rng, rows)
    if suffix.startswith(".txt"):
        raw = "\n".join(str(next(iter(row.values()), "")) for row in rows).encode(errors="replace")
    elif suffix == ".csv":
        raw = "".join(",".join(f'"{value}"' for value in row.values()) + "\n" for row in rows).encode(errors="replace")
    else:
        raw = "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows).encode(errors="surrogatepass")
    return gzip.compress(raw, mtime=0) if suffix.endswith(".gz") else raw


def cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def flip(rng: random.Random, raw: bytes) -> bytes:
    content = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite(rng: random.Random, raw: bytes) -> bytes:
    start, size = rng.randrange(len(raw)), rng.choice([1, 40, 400])
    return raw[:start] + rng.choice([b"\0", b"\xff", b"\n"]) * min(size, len(raw) - start) + raw[start + size :]


def insert(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + rng.randbytes(rng.choice([1, 3, 200])) + raw[start:]


def recode(rng: random.Random, raw: bytes) -> bytes:
    """The text in another encoding; bytes that are no text stay."""
    encoding = rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "utf-7"])
    return raw.decode(errors="replace").encode(encoding, errors="replace")


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "none": lambda _rng, raw: raw,
    "odd_type": lambda _rng, raw: raw,  # made in the rows
    "wrong_suffix": lambda _rng, raw: raw,  # made by the name
    "cut": cut,
    "flip": flip,
    "overwrite": overwrite,
    "insert": insert,
    "recode": recode,
    "empty": lambda _rng, _raw: b"",
    "blank": lambda rng, _raw: rng.choice(
        [b"\n", b" \n\n", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"null\n", b"[]\n", b"{}\n", b"0"]
    ),
    "bom": lambda _rng, raw: b"\xef\xbb\xbf" + raw,
    "twice": lambda _rng, raw: raw + raw,
    "tail": lambda rng, raw: raw + rng.randbytes(rng.choice([1, 8, 300])),
    "packed": lambda _rng, raw: gzip.compress(raw, mtime=0),
    "pointer": lambda _rng, _raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


def write_damaged_file(folder: Path, seed: int) -> DamagedFile:
    """File number ``seed``."""
    rng = random.Random(seed)
    suffix, damage = rng.choice(SUFFIXES), rng.choice(list(DAMAGES))
    adapter = rng.choice([None, *ROWS])
    rows = make_text_rows(rng) if adapter is None else [json.loads(json.dumps(ROWS[adapter])) for _ in range(rng.randint(1, 5))]
    if damage == "odd_type":
        spoil_cell(rng, rows)
    raw = encode(rng, suffix, rows)
    named = rng.choice(SUFFIXES) if damage == "wrong_suffix" else suffix
    path = folder / f"{seed}{named}"
    path.write_bytes(DAMAGES[damage](rng, raw))
    if adapter is None:
        where = {"where": {"n": rng.choice([0, "0", None])}} if rng.random() < 0.1 else {}
        return DamagedFile(path, "tier2_ppl", {"data_files": [str(path)], **where}, damage)
    style = {"delimiter": rng.choice([" ", "", "\n"]), "format": rng.choice(["ours", "lm_eval"])}
    return DamagedFile(path, "tier3_cf", {"data_files": [str(path)], "adapter": adapter, **style}, damage)
