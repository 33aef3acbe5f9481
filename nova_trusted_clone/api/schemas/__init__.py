"""What comes in and what goes out, as JSON Schema; what is not named is refused."""
