"""The course of an attempt: in flight, ended, lost or unseen, and what follows. Pure functions."""
