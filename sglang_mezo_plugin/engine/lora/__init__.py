"""Training of an adapter: theta + eps z and theta - eps z are two slots of SGLang's LoRA pool."""
