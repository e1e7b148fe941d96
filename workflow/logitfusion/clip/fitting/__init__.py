"""Fitting a few-shot method to a support set, choosing its settings there, and judging it there."""
