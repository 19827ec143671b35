"""Bulk files: a row is the activity it would send."""
