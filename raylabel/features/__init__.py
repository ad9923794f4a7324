"""Features and thumbnails of samples, and what is found with them."""
