"""Looking at attention: the document that a run leaves, and the ways to show it."""
