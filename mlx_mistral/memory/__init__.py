"""What a model needs in memory, before anything is allocated."""
