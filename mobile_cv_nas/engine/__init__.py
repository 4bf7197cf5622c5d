"""How anything runs: processes, folders, checkpoints, steps and the loop."""
