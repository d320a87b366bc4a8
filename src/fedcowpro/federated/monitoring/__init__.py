"""What a run's log tells while it runs and afterwards."""
