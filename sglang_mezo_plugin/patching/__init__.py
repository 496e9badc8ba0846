"""The parts of `sglang_mezo_plugin.patch`: reading the patches, finding an SGLang, replacing its files."""
