"""Pages and pictures for people, on one toolkit."""
