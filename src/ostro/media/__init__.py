"""Images and sounds from the bytes that clients send to what encoders take; torch-free."""
