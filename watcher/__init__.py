"""The login node: observe, decide, record, act.

Never imports torch, numpy, pyarrow, datasets, transformers or scoring.
"""

__version__ = "0.1.0"
