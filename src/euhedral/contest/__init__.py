"""Recipes side by side: trained on the same crystals for the same time, sampled alike, judged alike."""
