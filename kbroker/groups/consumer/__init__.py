"""Groups of the consumer protocol (KIP-848): the broker assigns, and members take one step at a time."""
