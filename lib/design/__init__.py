"""Networks and training recipes as data, and their analysis. Standard library only."""
