"""Whole slides: opened, checked, searched for tissue, cut into tiles.

in:      image files of any supported format
out:     pixels at a stated resolution, tissue masks, tiles
imports: study and below
"""
