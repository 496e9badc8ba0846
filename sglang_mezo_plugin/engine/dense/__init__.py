"""Training of every weight: each module runs on W + eps z and on W - eps z."""
