"""A checkpoint on disk: configuration, tokenizer and weights, checked before anything is loaded."""
