"""A comparison whose test splits are decoded once: what it froze, what it decoded, and whether a job may decode."""
