"""How good a model's rankings are, and whether they stay so when they come from cached blocks."""
