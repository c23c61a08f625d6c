"""Where results live: a run folder whose files are whole at any moment."""
