"""Training from proportions, and from labels of slides.

in:      tokens, folds, proportions
out:     models, histories, held-out predictions
imports: features, spatial and below; never evaluation
"""
