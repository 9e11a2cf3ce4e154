"""The only code that deletes: what is due is confirmed, deleted, and written down."""
