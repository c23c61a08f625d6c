"""Training: recipes, the Lightning module, exact resume, and checkpoints without pickle.

`run.train` starts a run folder, `run.resume` goes on with one; both leave a model that `euhedral.load` reads.
"""
