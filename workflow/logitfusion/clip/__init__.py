"""AMU-Tuning of CLIP: an auxiliary encoder gives a few-shot logit bias, weighed by uncertainty (arXiv 2404.08958)."""
