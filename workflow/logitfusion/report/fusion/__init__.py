"""The fusion track: scores of all methods, weights along texts, what tuning chose."""
