"""Pages for the browser: the gallery of crystals that every run leaves beside its files."""
