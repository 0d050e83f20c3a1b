"""Networks and the numerics around them: torch and OpenCV only, no Prefect, no Parquet, no knowledge of the flows."""
