"""Training runs: one thread trains, the others wait; each is a file."""
