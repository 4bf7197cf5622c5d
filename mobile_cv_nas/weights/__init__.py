"""Weight files: written, read, fetched and fitted."""
