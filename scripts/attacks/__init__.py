"""Tries to make the commands of this package run code, write elsewhere, lose data, hang or crash; see `attack.py`."""
