"""Definitions of our own tasks, and the code that they name."""
