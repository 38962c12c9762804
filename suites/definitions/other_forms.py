"""Other forms of a suite's YAML, brought into the one that the loader reads.

Entries may be a list of mappings with ``name``. ``target_tokens_total`` shares its tokens equally among the slices of its file.
"""

from typing import Any

from suites.common.yaml_reader import YamlDocument

TOTAL_KEY = "target_tokens_total"

_TOKENS_KEY = "target_tokens"


def name_listed_entries(document: YamlDocument, section: str) -> None:
    """Turn a list of entries into a mapping by their names. UserError for an entry without one, or with another's."""
    entries = document.data.get(section)
    if not isinstance(entries, list):
        return
    named: dict[str, Any] = {}
    for index, entry in enumerate(entries):
        location = (section, index)
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            hint = f"write {section}: {{NAME: {{hf_dataset: ...}}}}, or a list of {{name: NAME, hf_dataset: ...}}"
            raise document.make_error("has no name", location, hint)
        if name in named:
            raise document.make_error(f"{name!r} is listed twice", location, "give each a name of its own")
        named[name] = {key: value for key, value in entry.items() if key != "name"}
        # Errors of the entry are reported at its own lines.
        for path in [path for path in document.lines if path[:2] == location]:
            document.lines[(section, name, *path[2:])] = document.lines[path]
    document.data[section] = named


def share_total_tokens(document: YamlDocument, section: str) -> None:
    """Replace ``target_tokens_total`` by ``target_tokens`` of each slice. UserError where the two contradict each other."""
    total = document.data.pop(TOTAL_KEY, None)
    if total is None:
        return
    entries, defaults = document.data.get(section), document.data.get("defaults") or {}
    if isinstance(total, bool) or not isinstance(total, int) or total < 1:
        raise document.make_error(f"{total!r} is not a number of tokens", (TOTAL_KEY,), "write a whole number above 0")
    if not isinstance(entries, dict) or not entries or not isinstance(defaults, dict):
        hint = f"write {_TOKENS_KEY} under defaults:, for each slice"
        raise document.make_error("is shared by the slices of this file, which has none", (TOTAL_KEY,), hint)
    given = [entry.get(_TOKENS_KEY, defaults.get(_TOKENS_KEY)) if isinstance(entry, dict) else None for entry in entries.values()]
    share = total // len(entries)
    if share < 1:
        raise document.make_error(f"{total} tokens for {len(entries)} slices", (TOTAL_KEY,), "write at least one for each")
    sizes = [tokens for tokens in given if isinstance(tokens, int)]
    if len(sizes) == len(entries):  # both are written, as in a table of sizes: they have to agree
        if sum(sizes) != total:
            message = f"is {total}, and {_TOKENS_KEY} of {len(entries)} slices are {sum(sizes)} together"
            raise document.make_error(message, (TOTAL_KEY,), f"correct one of them, or remove {TOTAL_KEY}")
        return
    if any(tokens is not None for tokens in given):
        message = f"{TOTAL_KEY} beside {_TOKENS_KEY} of some slices"
        raise document.make_error(message, (TOTAL_KEY,), f"give {_TOKENS_KEY} of every slice, or of none")
    for entry in entries.values():
        if isinstance(entry, dict):
            entry[_TOKENS_KEY] = share
