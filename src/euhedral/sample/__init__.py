"""From what a user asks to crystals: requests, plans, and the generator that carries them out."""
