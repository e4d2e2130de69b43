"""A guest book: small, but a real visitor of every tier. It writes to the writer, reads from the reader and says who answered."""
