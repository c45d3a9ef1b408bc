"""What people write and read: plain immutable values."""
