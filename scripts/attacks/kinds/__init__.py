"""The kinds of hostile files and faults, one room per file."""
