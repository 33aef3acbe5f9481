"""Values that the conductor, its database and its notifications share. Frozen; times are UTC without a zone."""
