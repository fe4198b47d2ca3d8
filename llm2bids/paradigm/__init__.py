"""What the model is asked: prompt banks, tasks, the order of blocks, and the draw for each run."""
