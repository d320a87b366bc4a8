"""The page that compares methods: from tables of scores, runs and studies to an answer and where it comes from."""
