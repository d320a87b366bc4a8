"""Pseudo-labels of a slice."""
