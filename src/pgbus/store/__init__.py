"""SQL as typed values: operations are generators that yield queries and get rows back."""
