"""The few-shot track: accuracy against shots, ablation, shift, uncertainty, one table."""
