"""Talking to others: channels, servers, credentials, the buffer. Does I/O."""
