"""Types that all rooms share: evaluation, snapshot, actions, events, executor interface.

No I/O but in ``processes.py`` and ``clock.py``.
"""
