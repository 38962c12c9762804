"""Tokenizers, and the data cache of tokenized slices and items."""
