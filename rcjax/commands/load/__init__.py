"""Load tests of a running server: when requests are sent, what became of them, and what to make of that."""
