"""A hospital's side of a run."""
