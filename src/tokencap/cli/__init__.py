"""The command `tokencap`: what a store knows, in any image the app works in: it needs nothing but Python."""
