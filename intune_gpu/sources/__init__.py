"""Where rows come from: Parquet, text, synthetic click logs, and parts of these."""
