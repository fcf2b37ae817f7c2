"""Worlds: features of cells whose stages are known, without images.

in:      the section `world` of a study file and a seed
out:     features, stages and animals of cells; true and given proportions of groups
imports: study and below
"""
