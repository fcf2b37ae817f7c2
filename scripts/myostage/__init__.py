"""Recovery stages of muscle cells, learnt from the proportions of stages per day after injury."""
