"""Text tasks: where rows come from, how they are split, prompted and scored."""
