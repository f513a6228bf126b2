"""What the command line does: one module per kind of work, heavy imports inside the functions."""
