"""Carries out what was decided. The only room that submits, cancels, moves or deletes."""
