"""A device without arithmetic: its tokens are a hash of all tokens before them."""
