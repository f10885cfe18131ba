"""Images, sounds and series from what clients send to what encoders take; torch-free."""
