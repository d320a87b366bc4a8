"""Losses and the loop that trains; nothing here knows of federation."""
