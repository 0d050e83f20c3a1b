"""Families of video models behind one protocol: what each accepts and makes, how its folder loads, how it generates."""
