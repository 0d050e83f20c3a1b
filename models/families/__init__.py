"""Families of video models behind one protocol: what each accepts and makes, how it loads and how it generates."""
