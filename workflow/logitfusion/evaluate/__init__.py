"""From generated texts to judged examples, intervals and one tidy table."""
