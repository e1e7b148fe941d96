"""Causal language models: loading, sources, adapters, merging, identity."""
