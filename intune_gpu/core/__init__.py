"""The words that all rooms share: columns, chunks, cursor, plan, errors."""
