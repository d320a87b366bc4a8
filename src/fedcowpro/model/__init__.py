"""Encoders, prototype heads, the segmenter that joins them, and its checkpoint."""
