"""The data cache of tokenized slices, items and prompts, and what fills it."""
