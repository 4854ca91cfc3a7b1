"""What the demonstration model is taught, one subject a file. Each makes its items from a `random.Random`."""
