"""What goes out, made from what the services say; nothing is passed on that is not named here."""
