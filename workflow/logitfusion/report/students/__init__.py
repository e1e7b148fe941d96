"""The distillation track: scores of students, their loss curves, one table."""
