"""One run on several devices: rank 0 leads, the others do as it says."""
