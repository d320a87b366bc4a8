"""The federation between machines: keys and texts for each role, the coordinator's and the sites' processes, checks."""
