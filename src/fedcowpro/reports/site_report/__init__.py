"""The page on one prepared site, to look at before training."""
