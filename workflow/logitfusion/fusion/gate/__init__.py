"""Weights that a gate learned on validation data, from what the models predict at a token."""
