"""Features of images, cached by content."""
