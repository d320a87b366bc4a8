"""The one pipeline: annotated volumes in, masks of other volumes out."""
