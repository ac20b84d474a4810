"""What a line of the composer may ask for besides being sent; knows no widget."""
