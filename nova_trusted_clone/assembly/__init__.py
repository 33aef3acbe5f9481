"""From options to a working host: which adapters a service uses. Surfaces call it; nothing below knows it."""
