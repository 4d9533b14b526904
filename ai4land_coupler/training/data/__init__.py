"""From users' and public files to the training store."""
