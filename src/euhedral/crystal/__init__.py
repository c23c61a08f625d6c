"""What a crystal is: the batch, lattices, periodic geometry, symmetry and conversion. No learning code."""
