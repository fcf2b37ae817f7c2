"""What test files share: tiny studies, made-up tables and facts, small slides, formulas as loops, SLURM."""
