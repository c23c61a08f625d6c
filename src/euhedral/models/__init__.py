"""One generative family a file, all behind the contract of `models.base`."""
