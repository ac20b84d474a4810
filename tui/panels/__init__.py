"""What is shown of the machine at work, and of the tokens of a reply."""
