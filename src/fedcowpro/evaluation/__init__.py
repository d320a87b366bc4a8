"""Metrics, protocols, episodes as data, statistics; they take arrays or a predictor."""
