"""What travels, and how it is written."""
