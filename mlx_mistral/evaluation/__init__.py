"""How good a model is: perplexity of a text, and its distance from another model."""
