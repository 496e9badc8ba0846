"""What the commands share: their options, and what is made of them before a model is loaded."""
