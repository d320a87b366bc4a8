"""What an episode of training is made of: pseudo-labels, views, and the draws of both."""
