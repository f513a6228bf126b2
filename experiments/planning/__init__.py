"""Planning by diffusion on Maze2D: tables, sweeps and pictures."""
