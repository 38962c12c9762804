"""Types that all rooms share: evaluation, snapshot, actions, executor interface. No I/O but `processes.py` and `clock.py`."""
