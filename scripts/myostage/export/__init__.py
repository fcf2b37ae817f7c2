"""Stages of every cell, for other programs.

in:      models or predictions, outlines
out:     stages, CSV, QuPath GeoJSON
imports: evaluation and below
"""
