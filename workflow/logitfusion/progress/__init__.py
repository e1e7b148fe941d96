"""How far a run is and how long it takes: plans, lines for a terminal, and records of what runs took."""
