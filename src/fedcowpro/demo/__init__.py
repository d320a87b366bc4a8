"""The demonstration: synthetic hospitals learn together."""
