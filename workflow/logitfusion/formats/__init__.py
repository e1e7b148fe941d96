"""One reader for each text format that people and other programs write: bounded, and every error a sentence."""
