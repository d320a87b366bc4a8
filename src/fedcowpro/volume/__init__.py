"""Volumes: the frame they are held in, NIfTI files, and the way to the network's frame and back."""
