"""Data: from files and data sets to tokenised examples, and the order in which batches are drawn."""
