"""The method: estimators, optimizers and the loop, for any carrier. No engine is needed, nor a GPU."""
