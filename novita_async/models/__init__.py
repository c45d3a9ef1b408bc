"""Values that people write and read: plain and immutable."""
