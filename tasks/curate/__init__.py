"""Curation: from source files to clips with measurements, one module per step."""
