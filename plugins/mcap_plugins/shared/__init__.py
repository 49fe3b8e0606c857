"""Parts that several of the built-in plugins use; no plugin itself."""
