"""More than one machine: today the simulation of a cluster. docs/simulation.md says what it does and what it finds."""
