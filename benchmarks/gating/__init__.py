"""Forms of the rule gate on a finished run: what the models make of right answers, what is tried, how it does."""
