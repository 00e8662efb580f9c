"""The command `tokencap`: what a store knows, and apps run under a budget. It needs nothing but Python."""
