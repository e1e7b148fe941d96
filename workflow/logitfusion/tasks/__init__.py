"""Tasks: their definitions, documents, splits and prompts; and mixtures of texts to learn from."""
