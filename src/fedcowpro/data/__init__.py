"""Data sets, prepared sites, superpixels, episodes and synthetic patients."""
