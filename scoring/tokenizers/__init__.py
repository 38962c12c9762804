"""Tokenizers: what a folder means, text to token ids and back, chat templates.

transformers reads a folder once, at prefill; jobs read its resolved.json.
"""
