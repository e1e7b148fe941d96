"""Few-shot methods on frozen features."""
