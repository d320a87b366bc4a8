"""Studies: many trainings and evaluations that differ in chosen points, run in parallel, interruptibly, each once."""
