"""Adapters of datasets, one a file; `registry` finds them."""
