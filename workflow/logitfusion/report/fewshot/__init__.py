"""The few-shot track: accuracy against shots, ablation, shift, uncertainty, example images, one table."""
