"""Lists to choose from: models, conversations."""
