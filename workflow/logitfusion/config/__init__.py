"""The config: one typed class for each section, in a file of its own; ``run`` is the whole."""
