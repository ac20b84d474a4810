"""What a model needs in memory, by arithmetic before anything is allocated, and what there is."""
