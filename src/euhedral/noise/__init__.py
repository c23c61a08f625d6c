"""One stochastic process a file, from noise at t = 0 to crystals at t = 1; `JointNoise` holds one named process a field."""
