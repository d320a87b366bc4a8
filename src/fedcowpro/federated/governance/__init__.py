"""What a site permits, and the log of what was asked and answered."""
