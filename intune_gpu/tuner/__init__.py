"""Who decides: from signals to plans. Knows nothing of the engine; a plan never changes the data."""
