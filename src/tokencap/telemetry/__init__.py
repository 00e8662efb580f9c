"""What is told about a call once it has ended."""
