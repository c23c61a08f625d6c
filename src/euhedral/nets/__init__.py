"""One backbone a file; each maps a noisy crystal, times and conditions to a `Prediction` and knows nothing of the noise."""
