"""Slide readers, a file each: found by listing this folder."""
