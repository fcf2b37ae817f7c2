"""The page that answers a study's questions.

in:      tables and figures
out:     sentences, tables, one HTML file
imports: figures, evaluation and below; no torch
"""
