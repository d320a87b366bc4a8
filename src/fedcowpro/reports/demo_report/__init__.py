"""The page that the demonstration leaves."""
